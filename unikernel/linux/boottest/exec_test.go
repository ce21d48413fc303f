package boottest

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"containerd-shim-uni/unikernel"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestExec runs many processes beside one container's, in one machine.
func TestExec(t *testing.T) {
	needQEMU(t)
	a := app("sh", "-c", "echo pid $$; trap 'echo hup' HUP; trap 'echo usr1' USR1; while :; do sleep 0.02; done")
	a.Spec.Process.Terminal = false
	a.Spec.Mounts = append(a.Spec.Mounts,
		specs.Mount{Destination: "/links/abs/sub", Type: "tmpfs", Source: "tmpfs", Options: []string{"mode=700", "size=1m"}},
		specs.Mount{Destination: "/links/out/up", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=1m", "noexec"}})
	a.Spec.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1"}
	a.Spec.Linux.MaskedPaths = append(a.Spec.Linux.MaskedPaths, "/proc/meminfo")
	readOnly := uint(syscall.EROFS)
	a.Spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"umount2"}, Action: specs.ActErrno, ErrnoRet: &readOnly}}}
	limit := int64(200)
	a.Spec.Linux.Resources = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}}
	m := bootWith(t, "microvm", unikernel.Resources{MemoryMiB: 192, VCPUs: 2}, image(t), a)
	var out lockedBuffer
	p := m.run(a, unikernel.Stdio{Stdout: &out})

	t.Run("exit codes", func(t *testing.T) {
		for _, code := range []string{"0", "1", "7", "126", "127", "255"} {
			if r := m.sh("exit " + code); formatStatus(r.status) != code {
				t.Errorf("exit %s gave %d", code, r.status)
			}
		}
		if r := m.sh("kill -TERM $$"); r.status != 143 {
			t.Errorf("a death by SIGTERM gave %d, want 143", r.status)
		}
	})
	t.Run("environment", func(t *testing.T) { testEnvironment(t, m) })
	t.Run("walls", func(t *testing.T) { testWalls(t, m) })
	t.Run("user", func(t *testing.T) { testUser(t, m) })
	t.Run("errors", func(t *testing.T) { testErrors(t, m) })
	t.Run("streams", func(t *testing.T) { testStreams(t, m) })
	t.Run("large environment", func(t *testing.T) {
		p := process("sh", "-c", `echo ${#V9}; exit 4`)
		for i := range 10 {
			p.Env = append(p.Env, "V"+formatStatus(uint32(i))+"="+strings.Repeat("x", 100<<10))
		}
		if r := m.exec(p, nil); r.status != 4 || r.out != "102400\n" {
			t.Errorf("status %d, output %q, stderr %q", r.status, r.out, r.errOut)
		}
		p.Env = append(p.Env, "TOO="+strings.Repeat("x", 200<<10))
		_, err := m.session.Exec(m.context(), "x", p, unikernel.Stdio{})
		if !errors.Is(err, unikernel.ErrInvalid) || err.Error() != "exec /bin/sh: argument list too long" {
			t.Errorf("a variable of 200 KiB: %v", err)
		}
	})
	t.Run("many at once", func(t *testing.T) {
		var wg sync.WaitGroup
		for i := range 16 {
			want := formatStatus(uint32(i))
			wg.Go(func() {
				var out lockedBuffer
				p, err := m.session.Exec(t.Context(), "x", process("sh", "-c", "cat; exit "+want),
					unikernel.Stdio{Stdin: strings.NewReader(want), Stdout: &out})
				if err != nil {
					t.Error(err)
					return
				}
				<-p.Drained()
				if x, err := p.Exit(); err != nil || formatStatus(x.Status) != want || out.String() != want {
					t.Errorf("process %s: %+v, %v, output %q", want, x, err, out.String())
				}
			})
		}
		wg.Wait()
	})
	t.Run("linger", func(t *testing.T) { testLinger(t, m) })
	t.Run("terminal", func(t *testing.T) { testTerminal(t, m) })
	t.Run("signals", func(t *testing.T) {
		waitOutput(t, &out, "pid 1\n")
		for sig, word := range map[syscall.Signal]string{syscall.SIGHUP: "hup\n", syscall.SIGUSR1: "usr1\n"} {
			if err := p.Signal(m.context(), sig, false); err != nil {
				t.Fatal(err)
			}
			waitOutput(t, &out, word)
		}
		// A PID 1 without a handler ignores it, as under runc.
		if err := p.Signal(m.context(), syscall.SIGTERM, false); err != nil {
			t.Fatal(err)
		}
		if r := m.sh("true"); r.status != 0 {
			t.Errorf("the container died of a signal that PID 1 does not handle")
		}
		err := p.Signal(m.context(), 200, false)
		if !errors.Is(err, unikernel.ErrInvalid) {
			t.Errorf("signal 200: %v, want ErrInvalid", err)
		}
	})
	m.end(p)
	if err := p.Signal(t.Context(), syscall.SIGTERM, false); !errors.Is(err, unikernel.ErrNotFound) {
		t.Errorf("signal after the exit: %v, want ErrNotFound", err)
	}
}

func formatStatus(n uint32) string {
	var b []byte
	for ; n > 9; n /= 10 {
		b = append([]byte{byte('0' + n%10)}, b...)
	}
	return string(append([]byte{byte('0' + n)}, b...))
}

// waitOutput waits until something was written.
func waitOutput(t *testing.T, b *lockedBuffer, want string) {
	t.Helper()
	for deadline := time.Now().Add(processTimeout); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if strings.Contains(b.String(), want) {
			return
		}
	}
	t.Fatalf("%q did not appear in %q", want, b.String())
}

// checkConditions runs shell conditions, all of which must hold.
func checkConditions(t *testing.T, m *machine, conditions []string) {
	t.Helper()
	for _, c := range conditions {
		if r := m.sh(c); r.status != 0 {
			t.Errorf("%s: status %d, stdout %q, stderr %q", c, r.status, r.out, r.errOut)
		}
	}
}

// testWalls checks what root of a container cannot do, which may make nodes of devices.
func testWalls(t *testing.T, m *machine) {
	checkConditions(t, m, []string{
		// The first process has no new privileges, this one may have: both are filtered.
		`[ "$(cat /proc/1/status /proc/self/status | grep -c '^Seccomp:.2')" = 2 ]`,
		`umount /nothing 2>&1 | grep -q 'Read-only file system'`,
		`mknod /raw b $(tr : ' ' </sys/block/vda/dev) && ! head -c 1 /raw 2>/raw.err && grep -q 'not permitted' /raw.err`,
		`mknod /serial c 4 64 && ! (echo x >/serial) 2>/serial.err && grep -q 'not permitted' /serial.err`,
		`mknod /kmsg c 1 11 && ! (echo x >/kmsg) 2>/kmsg.err && grep -q 'not permitted' /kmsg.err`,
		`mknod /own c 1 3 && echo x >/own && echo x >/dev/null && head -c 1 /dev/urandom >/own`,
		`dmesg 2>&1 | grep -q 'not permitted'`,
		`[ "$(cat /proc/self/cgroup | grep devices)" = 1:devices:/ ]`,
	})
}

// testEnvironment checks what a process finds around it. Each line of the
// table is one shell condition.
func testEnvironment(t *testing.T, m *machine) {
	conditions := []string{
		`[ "$(hostname)" = boottest ]`,
		`[ "$(cat /etc/image)" = "from the image" ]`,
		`echo x > /etc/new && mv /etc/new /etc/new2 && mv /etc/new2 /etc/new`,
		`[ "$HOME" = /root-home ]`,
		`[ "$(readlink /proc/1/exe)" = /bin/busybox ]`,
		`[ "$(ls /proc | grep -c '^[0-9]*$')" -lt 8 ]`,
		`[ "$(cat /proc/sys/net/ipv4/ip_forward)" = 1 ]`,
		`! echo 0 2>/dev/null > /proc/sys/net/ipv4/ip_forward`,
		`[ -z "$(cat /proc/meminfo)" ]`,
		`[ "$(stat -c %a /data/sub)" = 700 ]`,
		`grep -q '^tmpfs /data/up tmpfs.*noexec' /proc/mounts`,
		`grep -q '^overlay / overlay' /proc/mounts`,
		`[ "$(head -1 /proc/mounts | cut -d' ' -f2)" = / ]`,
		`! grep -qE ' /(lower|upper|share|root)( |/)' /proc/mounts`,
		`grep -q '^sysfs /sys sysfs ro' /proc/mounts`,
		`grep -q '^cgroup /sys/fs/cgroup cgroup2 ro' /proc/mounts`,
		`[ -c /dev/null ] && [ -c /dev/zero ] && [ -c /dev/full ] && [ -c /dev/random ] && [ -c /dev/urandom ] && [ -c /dev/tty ]`,
		`[ "$(stat -c %a /dev/null)" = 666 ]`,
		`[ "$(readlink /dev/fd)" = /proc/self/fd ] && [ -e /dev/ptmx ]`,
		`[ "$(ls /dev/pts)" = ptmx ]`,
		`[ "$(cat /sys/class/net/lo/operstate)" = unknown ]`,
		`[ "$(ls /proc/self/fd | wc -l)" = 4 ]`,
		`[ "$(date +%Y)" -ge 2024 ]`,
		`[ "$(umask)" = 0022 ]`,
		`echo reopened > /dev/stdout`,
		`[ "$(cat /sys/fs/cgroup/pids.max)" = 200 ]`,
		`touch /dev/shm/x /run/x /tmp/x`,
		`[ "$(stat -c %U:%G:%a /)" = root:root:755 ]`,
	}
	checkConditions(t, m, conditions)
	// Without a shell in between, which ignores signals of its own.
	r := m.exec(process("grep", "^Sig[BI]", "/proc/self/status"), nil)
	if r.out != "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n" {
		t.Errorf("signals: %q", r.out)
	}
	p := process("sh", "-c", "echo $A; pwd")
	p.Cwd, p.Env = "/data", append(p.Env, "A=1", "A=two words")
	if r := m.exec(p, nil); r.out != "two words\n/data\n" {
		t.Errorf("environment and cwd: %q", r.out)
	}
}

// testUser checks user, groups, capabilities, limits and no_new_privs.
func testUser(t *testing.T, m *machine) {
	p := process("sh", "-c", `id -u; id -g; id -G; echo $HOME; umask; grep -E '^(Cap|NoNew)' /proc/self/status; grep -E 'open files|core file' /proc/self/limits; cat /proc/self/oom_score_adj; echo reopened >/dev/stdout`)
	umask, score := uint32(0o077), 500
	p.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{5, 6}, Umask: &umask}
	p.NoNewPrivileges = true
	p.OOMScoreAdj = &score
	p.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_CHOWN", "CAP_KILL"}, Permitted: []string{"CAP_KILL"},
		Inheritable: []string{"CAP_KILL"}, Effective: []string{"CAP_KILL"}, Ambient: []string{"CAP_KILL"}}
	p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200}, {Type: "RLIMIT_CORE", Soft: 0, Hard: 4096}}
	r := m.exec(p, nil)
	want := []string{"1000", "1001", "1001 5 6", "/home/user", "0077", "CapInh:\t0000000000000020", "CapPrm:\t0000000000000020",
		"CapEff:\t0000000000000020", "CapBnd:\t0000000000000021", "CapAmb:\t0000000000000020", "NoNewPrivs:\t1"}
	lines := strings.Split(strings.TrimSpace(r.out), "\n")
	if len(lines) != len(want)+4 || r.status != 0 {
		t.Fatalf("status %d, output %q, stderr %q", r.status, r.out, r.errOut)
	}
	for i, w := range want {
		if lines[i] != w {
			t.Errorf("line %d is %q, want %q", i, lines[i], w)
		}
	}
	rest := strings.Join(strings.Fields(strings.Join(lines[len(want):], " ")), " ")
	if rest != "Max core file size 0 4096 bytes Max open files 100 200 files 500 reopened" {
		t.Errorf("limits: %q", rest)
	}
	// Without capabilities of its own an exec has the container's.
	if r := m.sh("grep CapEff /proc/self/status"); r.out != "CapEff:\t00000000a80425fb\n" {
		t.Errorf("capabilities of a plain exec: %q", r.out)
	}
	p = process("id", "-u")
	p.User.UID = 4242
	if r := m.exec(p, nil); r.out != "4242\n" {
		t.Errorf("user without a passwd entry: %q %q", r.out, r.errOut)
	}
}

// testErrors checks the words of processes that cannot start.
func testErrors(t *testing.T, m *machine) {
	for _, c := range []struct {
		args []string
		cwd  string
		want string
		is   error
	}{
		{[]string{"nosuch"}, "/", `exec: "nosuch": executable file not found in $PATH`, unikernel.ErrNotFound},
		{[]string{"/nosuch"}, "/", `exec: "/nosuch": stat /nosuch: no such file or directory`, unikernel.ErrNotFound},
		{[]string{"/bin/notexec"}, "/", `exec: "/bin/notexec": permission denied`, unikernel.ErrInvalid},
		{[]string{"/data"}, "/", `exec: "/data": is a directory`, unikernel.ErrInvalid},
		{[]string{"/bin/badformat"}, "/", `exec /bin/badformat: exec format error: it is neither a program for this machine nor a script that starts with #!`, unikernel.ErrInvalid},
		{[]string{"crlf"}, "/", `exec /bin/crlf: no such file or directory: it has Windows line ends, and there is no interpreter "/bin/sh\r": save it with Unix line ends, for example with dos2unix`, unikernel.ErrInvalid},
		{[]string{"nointerp"}, "/", `exec /bin/nointerp: no such file or directory: its interpreter "/bin/nosuch -x" is not in the image`, unikernel.ErrInvalid},
		{[]string{"true"}, "/nosuch", `chdir to cwd ("/nosuch") set in config.json failed: no such file or directory`, unikernel.ErrNotFound},
	} {
		p := process(c.args...)
		p.Cwd = c.cwd
		_, err := m.session.Exec(m.context(), "x", p, unikernel.Stdio{})
		if err == nil || err.Error() != c.want || !errors.Is(err, c.is) {
			t.Errorf("%q in %s: %v (want %s)", c.args, c.cwd, err, c.want)
		}
	}
}

// slowWriter is a writer that takes its time.
type slowWriter struct {
	w io.Writer
	d time.Duration
}

func (s slowWriter) Write(p []byte) (int, error) {
	time.Sleep(s.d)
	return s.w.Write(p)
}

// blocked is a writer that nobody reads until it is released.
type blocked struct {
	release chan struct{}
	w       io.Writer
}

func (b blocked) Write(p []byte) (int, error) {
	<-b.release
	return b.w.Write(p)
}

func testStreams(t *testing.T, m *machine) {
	t.Run("stdin and its end", func(t *testing.T) {
		text := strings.Repeat("0123456789abcdef", 64<<10) // 1 MiB
		sum := md5.Sum([]byte(text))
		r := m.exec(process("md5sum"), strings.NewReader(text))
		if want := hex.EncodeToString(sum[:]) + "  -\n"; r.out != want {
			t.Errorf("md5sum says %q, want %q", r.out, want)
		}
		if r := m.exec(process("true"), strings.NewReader(text)); r.status != 0 {
			t.Errorf("a process that does not read: status %d", r.status)
		}
	})
	t.Run("slow reader", func(t *testing.T) {
		var out bytes.Buffer
		script := "dd if=/dev/zero bs=64k count=80 2>/dev/null; echo end >&2"
		var errOut lockedBuffer
		p, err := m.session.Exec(m.context(), "x", process("sh", "-c", script),
			unikernel.Stdio{Stdout: slowWriter{&out, time.Millisecond}, Stderr: &errOut})
		if err != nil {
			t.Fatal(err)
		}
		if m.await(p) != 0 || errOut.String() != "end\n" {
			t.Errorf("stderr %q", errOut.String())
		}
		if out.Len() != 5<<20 {
			t.Errorf("%d bytes, want 5 MiB", out.Len())
		}
	})
	t.Run("absent reader", func(t *testing.T) {
		// More than the window: the process blocks in write, other streams and
		// processes go on, and when it dies what it wrote is there.
		var out bytes.Buffer
		stuck := blocked{make(chan struct{}), &out}
		var errOut lockedBuffer
		p, err := m.session.Exec(m.context(), "x", process("sh", "-c", "echo start >&2; dd if=/dev/zero bs=64k count=80 2>/dev/null; echo never >&2"),
			unikernel.Stdio{Stdout: stuck, Stderr: &errOut})
		if err != nil {
			t.Fatal(err)
		}
		waitOutput(t, &errOut, "start\n")
		if r := m.sh("seq 1 10000 | wc -l"); r.out != "10000\n" {
			t.Errorf("another process: %q", r.out)
		}
		if err := p.Signal(m.context(), syscall.SIGKILL, false); err != nil {
			t.Fatal(err)
		}
		<-p.Exited()
		select {
		case <-p.Drained():
			t.Error("drained without a reader")
		default:
		}
		close(stuck.release)
		if got := m.await(p); got != 137 {
			t.Errorf("status %d, want 137", got)
		}
		if errOut.String() != "start\n" {
			t.Errorf("the process was not held up: stderr %q", errOut.String())
		}
		if n := out.Len(); n < 256<<10 {
			t.Errorf("%d bytes of output, want at least the window", n)
		}
	})
}

// testLinger checks the output of a process whose child outlives it.
func testLinger(t *testing.T, m *machine) {
	var out lockedBuffer
	p, err := m.session.Exec(m.context(), "x", process("sh", "-c", "(sleep 1; echo late) & echo now"), unikernel.Stdio{Stdout: &out})
	if err != nil {
		t.Fatal(err)
	}
	<-p.Exited()
	waitOutput(t, &out, "now\n")
	m.await(p)
	if out.String() != "now\nlate\n" {
		t.Errorf("output %q", out.String())
	}
}

// testTerminal drives a shell on a terminal.
func testTerminal(t *testing.T, m *machine) {
	in, inW := io.Pipe()
	defer inW.Close()
	var out lockedBuffer
	p := process("sh")
	p.Terminal, p.ConsoleSize = true, &specs.Box{Width: 80, Height: 24}
	p.User.UID = 1000
	proc, err := m.session.Exec(m.context(), "x", p, unikernel.Stdio{Stdin: in, Stdout: &out})
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(inW, "stty size; tty; test -t 2 && echo a''tty\n")
	waitOutput(t, &out, "24 80\r\n")
	waitOutput(t, &out, "/dev/pts/")
	waitOutput(t, &out, "atty\r\n")
	if err := proc.Resize(m.context(), 132, 43); err != nil {
		t.Fatal(err)
	}
	// A key that comes while the shell has no program in the foreground is lost to
	// the next one.
	io.WriteString(inW, "stty size; sh -c 'echo asl''eep; exec sleep 1000'\n")
	waitOutput(t, &out, "43 132\r\n")
	waitOutput(t, &out, "asleep\r\n")
	io.WriteString(inW, "\x03") // the terminal makes it SIGINT
	io.WriteString(inW, "exit 5\n")
	if got := m.await(proc); got != 5 {
		t.Errorf("status %d, want 5; output %q", got, out.String())
	}
}

// TestExecWhileTheContainerEnds: whatever the moment, an exec either ran or was
// told that the container ends.
func TestExecWhileTheContainerEnds(t *testing.T) {
	needQEMU(t)
	root := image(t)
	for range lives(t, 3) {
		a := app("sh", "-c", "read line")
		m := boot(t, "microvm", root, a)
		in, inW := io.Pipe()
		p := m.run(a, unikernel.Stdio{Stdin: in})
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 50 {
					x, err := m.session.Exec(m.context(), "x", process("true"), unikernel.Stdio{})
					if err != nil {
						if err.Error() != "cannot exec in a stopped container" {
							t.Errorf("exec: %v", err)
						}
						return
					}
					<-x.Exited()
				}
			})
		}
		time.Sleep(200 * time.Millisecond)
		io.WriteString(inW, "\n")
		<-p.Exited()
		wg.Wait()
		inW.Close()
		m.finish()
	}
}

// TestSignalAll: no process escapes by forking, whatever the signal.
func TestSignalAll(t *testing.T) {
	needQEMU(t)
	// A process that is another one every moment; nobody finds it in /proc.
	const hopper = `hop() { echo >>/dev/shm/beat; hop & exit; }; hop`
	a := app("sh", "-c", "while :; do sleep 0.01; done")
	m := bootWith(t, "microvm", unikernel.Resources{MemoryMiB: 192, VCPUs: 2}, image(t), a)
	p := m.run(a, unikernel.Stdio{})
	alive := func() bool {
		return m.sh("a=$(wc -c </dev/shm/beat); sleep 0.3; [ $a != $(wc -c </dev/shm/beat) ]").status == 0
	}
	for i := range lives(t, 4) {
		for range 3 {
			if _, err := m.session.Exec(m.context(), "x", process("sh", "-c", hopper), unikernel.Stdio{}); err != nil {
				t.Fatal(err)
			}
		}
		if !alive() {
			t.Fatal("nobody hops")
		}
		// Which PID 1 ignores.
		if err := p.Signal(m.context(), syscall.SIGTERM, true); err != nil {
			t.Fatal(err)
		}
		if alive() {
			t.Fatalf("round %d: a process escaped SIGTERM", i)
		}
	}
	m.end(p)
}
