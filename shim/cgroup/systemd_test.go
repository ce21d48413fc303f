package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// fakeSystemd has units by name; it fails as real ones do.
type fakeSystemd struct {
	units    map[string]map[string]string
	startErr error
}

func (f *fakeSystemd) start(ctx context.Context, unit string, p []dbus.Property) error {
	if f.startErr != nil {
		return f.startErr
	}
	if f.units[unit] != nil {
		return godbus.Error{Name: "org.freedesktop.systemd1.UnitExists"}
	}
	f.units[unit] = map[string]string{}
	return f.set(ctx, unit, p)
}
func (f *fakeSystemd) set(_ context.Context, unit string, p []dbus.Property) error {
	if f.units[unit] == nil {
		return errors.New("no such unit")
	}
	for _, property := range p {
		f.units[unit][property.Name] = property.Value.String()
	}
	return nil
}
func (f *fakeSystemd) stop(_ context.Context, unit string) error {
	delete(f.units, unit)
	return nil
}
func (f *fakeSystemd) close() {}

// withSystemd lets a test meet a systemd of its own, or nothing that answers.
func withSystemd(t *testing.T, f *fakeSystemd, connectErr error) {
	oldConnect, oldManaged := connect, managed
	t.Cleanup(func() { connect, managed = oldConnect, oldManaged })
	managed = func() bool { return true }
	connect = func(context.Context) (manager, error) { return f, connectErr }
}

const scopePath, scopeUnit = "/a.slice/a-b.slice/cri-c1.scope", "cri-c1.scope"

func TestScope(t *testing.T) {
	hier, record := newFake(), filepath.Join(t.TempDir(), "cgroup")
	f := &fakeSystemd{units: map[string]map[string]string{scopeUnit: {}}} // left by a crash
	withSystemd(t, f, nil)
	quota, period, shares := int64(25_000), uint64(100_000), uint64(512)
	g, err := create(hier, record, Place{Path: scopePath, Scope: true},
		Limits{MemoryBytes: 1 << 20, CPU: &specs.LinuxCPU{Quota: &quota, Period: &period, Shares: &shares}})
	if err != nil || len(hier.groups) > 0 {
		t.Fatalf("without a process: %v, %v", hier.groups, err)
	}
	if err := g.Add(7, 8); err != nil || !slices.Equal(hier.pids[scopePath], []int{7, 8}) || *hier.groups[scopePath].Memory.Limit != 1<<20 {
		t.Errorf("%v, %v, %v", hier.pids, hier.groups, err)
	}
	for name, want := range map[string]string{
		"Slice": `"a-b.slice"`, "PIDs": "@au [7, 8]", "Delegate": "true", "MemoryLimit": "@t 1048576",
		"CPUQuotaPerSecUSec": "@t 250000", "CPUShares": "@t 512",
	} {
		if got := f.units[scopeUnit][name]; got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	quota = -1
	if err := g.Update(&specs.LinuxCPU{Quota: &quota}); err != nil || f.units[scopeUnit]["CPUQuotaPerSecUSec"] != "@t 18446744073709551615" {
		t.Errorf("update: %v, %v", f.units, err)
	}
	hier.trimmed = 2
	if err := g.Add(9); err != nil || len(hier.pids[scopePath]) != 3 {
		t.Errorf("a later process: %v, %v", hier.pids, err)
	}
	if err := remove(hier, record); err != nil || len(f.units)+len(hier.groups) > 0 {
		t.Errorf("left: %v, %v, %v", f.units, hier.groups, err)
	}
}

// TestScopeWithoutSystemd: one that refuses or does not answer costs no container.
func TestScopeWithoutSystemd(t *testing.T) {
	for _, f := range []*fakeSystemd{nil, {units: map[string]map[string]string{}, startErr: errors.New("refused")}} {
		hier, record := newFake(), filepath.Join(t.TempDir(), "cgroup")
		var connectErr error
		if f == nil {
			connectErr = errors.New("nobody listens")
		}
		withSystemd(t, f, connectErr)
		g, err := create(hier, record, Place{Path: scopePath, Scope: true}, Limits{MemoryBytes: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		if err := g.Add(7); err != nil || hier.groups[scopePath] == nil {
			t.Errorf("%v, %v", hier.groups, err)
		}
		if err := remove(hier, record); err != nil || len(hier.groups) > 0 {
			t.Errorf("left: %v, %v", hier.groups, err)
		}
	}
}

func TestLimitProperties(t *testing.T) {
	shares := uint64(1024)
	p := limitProperties(unified{}, Limits{MemoryBytes: 5, CPU: &specs.LinuxCPU{Shares: &shares}})
	if len(p) != 2 || p[0].Name != "MemoryMax" || p[1].Name != "CPUWeight" || p[1].Value.String() != "@t 100" {
		t.Errorf("%+v", p)
	}
	for in, want := range map[[2]int64]uint64{{-1, 100_000}: ^uint64(0), {150_000, 100_000}: 1_500_000, {1_001, 100_000}: 20_000} {
		if got := perSecond(in[0], uint64(in[1])); got != want {
			t.Errorf("%v: %d, want %d", in, got, want)
		}
	}
}

const (
	systemdProgram = "/lib/systemd/systemd"
	insideEnv      = "UNI_INSIDE_SYSTEMD"
)

// TestScopeOfSystemd has a systemd of its own: the first process of namespaces in
// which this program is started again.
func TestScopeOfSystemd(t *testing.T) {
	if os.Getenv(insideEnv) != "" {
		inSystemd(t)
		return
	}
	if os.Getenv("UNI_QEMU_TESTS") == "" {
		t.Skip("needs root: set UNI_QEMU_TESTS=1")
	}
	if _, err := os.Stat(systemdProgram); err != nil {
		t.Skip("systemd is not installed")
	}
	first := bootSystemd(t)
	cmd := exec.CommandContext(t.Context(), "nsenter", "-t", fmt.Sprint(first), "-m", "-p", "-C", "-u", "-i", "-n", "--",
		"/proc/self/exe", "-test.run=^TestScopeOfSystemd$", "-test.v")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Args[slices.Index(cmd.Args, "/proc/self/exe")] = self
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestScopeOfSystemd") {
		t.Errorf("%v\n%s", err, out)
	}
}

// bootSystemd starts systemd, with a unit of ours for the only one, and returns its
// number when it answers.
func bootSystemd(t *testing.T) int {
	t.Helper()
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		t.Fatal(err)
	}
	enter, remount := "", "mount -t tmpfs tmpfs /sys/fs/cgroup\n"
	for _, m := range mounts {
		if !strings.HasPrefix(m.Mountpoint, "/sys/fs/cgroup") {
			continue
		}
		dir := filepath.Join(m.Mountpoint, fmt.Sprintf("uni-test-%d", os.Getpid()))
		t.Cleanup(func() { removeAll(t, dir) })
		enter += fmt.Sprintf("mkdir %[1]s\nfor f in cpus mems; do [ ! -e %[2]s/cpuset.$f ] || cat %[2]s/cpuset.$f >%[1]s/cpuset.$f; done\necho $$ >%[1]s/cgroup.procs\n",
			dir, m.Mountpoint)
		options := strings.TrimPrefix(m.VFSOptions, "rw,")
		if m.FSType == "cgroup2" {
			options = "rw"
		}
		options = strings.TrimPrefix(options, "xattr,")
		if strings.Contains(options, "name=") {
			options = "none," + options
		}
		remount += fmt.Sprintf("mkdir -p %[1]s\nmount -t %[2]s -o %[3]s %[2]s %[1]s\n", m.Mountpoint, m.FSType, options)
	}
	inside := `set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
` + remount + `mkdir -p /run/systemd/system
printf '[Unit]\nDefaultDependencies=no\n' >/run/systemd/system/uni-test.target
exec env container=uni-test ` + systemdProgram + ` --system --unit=uni-test.target --log-target=console --show-status=0
`
	cmd := exec.Command("sh", "-c", "set -e\n"+enter+`exec unshare -m -p -C -u -i -n --fork --kill-child sh -c "$1"`, "sh", inside)
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }() // killed
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
	for began := time.Now(); time.Since(began) < time.Minute; time.Sleep(20 * time.Millisecond) {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%[1]d/task/%[1]d/children", cmd.Process.Pid))
		var first int
		if _, err := fmt.Sscan(string(text), &first); err != nil {
			continue
		}
		if _, err := os.Stat(fmt.Sprintf("/proc/%d/root/run/systemd/private", first)); err == nil {
			return first
		}
		select {
		case <-ended:
			t.Fatalf("systemd ended:\n%s", &said)
		default:
		}
	}
	t.Fatal("systemd does not come up")
	return 0
}

// removeAll removes a cgroup and those below it, whose processes were killed.
func removeAll(t *testing.T, dir string) {
	for range 100 {
		var dirs []string
		_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, p)
			}
			return nil // what is gone
		})
		for _, d := range slices.Backward(dirs) {
			_ = os.Remove(d) // seen below
		}
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Errorf("%s is left", dir)
}

// show is what systemd says of a unit.
func show(t *testing.T, name, property string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "systemctl", "show", "-P", property, name).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}

// inSystemd lives a scope's life where systemd is the first process.
func inSystemd(t *testing.T) {
	hier, record := detect(), filepath.Join(t.TempDir(), "cgroup")
	if !managed() {
		t.Fatal("systemd does not run")
	}
	at, err := PlaceOf("uni-a.slice:test:c1", "", "")
	if err != nil || !at.Scope {
		t.Fatal(at, err)
	}
	const unit = "test-c1.scope"
	sleep := exec.Command("sleep", "1000")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = sleep.Wait(); close(ended) }() // killed
	quota := int64(50_000)
	g, err := create(hier, record, at, Limits{MemoryBytes: 64 << 20, CPU: &specs.LinuxCPU{Quota: &quota}})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Add(sleep.Process.Pid); err != nil {
		t.Fatal(err)
	}
	inForce := func(when, cpu string) {
		t.Helper()
		for property, want := range map[string]string{
			"ActiveState": "active", "Delegate": "yes", "Slice": "uni-a.slice", "ControlGroup": at.Path, "CPUQuotaPerSecUSec": cpu,
		} {
			if got := show(t, unit, property); got != want {
				t.Errorf("%s: %s is %q, want %q", when, property, got, want)
			}
		}
		if b := hier.bounds(at.Path); b.MemoryBytes != 64<<20 {
			t.Errorf("%s: bounds %+v", when, b)
		}
	}
	inForce("begun", "500ms")
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", sleep.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		for _, c := range []string{":memory:", ":cpu:", ":cpuset:", ":pids:", ":name=systemd:", "0::"} {
			if strings.Contains(line, c) && !strings.HasSuffix(strings.TrimSpace(line), at.Path) {
				t.Errorf("the process is in %s", line)
			}
		}
	}
	quota = 20_000
	if err := g.Update(&specs.LinuxCPU{Quota: &quota}); err != nil {
		t.Error(err)
	}
	if out, err := exec.Command("systemctl", "daemon-reload").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	inForce("after daemon-reload", "200ms")
	other, err := create(hier, record+"2", at, Limits{MemoryBytes: 64 << 20}) // it exists
	if err != nil || other.limits != nil {
		t.Errorf("%+v, %v", other, err)
	}
	if err := errors.Join(remove(hier, record+"2"), remove(hier, record)); err != nil {
		// what was killed leaves its cgroup a moment later
		for began := time.Now(); err != nil && time.Since(began) < 10*time.Second; time.Sleep(20 * time.Millisecond) {
			err = remove(hier, record)
		}
		if err != nil {
			t.Error(err)
		}
	}
	<-ended
	if got := show(t, unit, "LoadState"); got != "not-found" || hier.exists(at.Path) {
		t.Errorf("the unit is %s, its cgroup is there: %v", got, hier.exists(at.Path))
	}
	for _, root := range hier.roots() {
		if _, err := os.Stat(filepath.Join(root, at.Path)); err == nil {
			t.Errorf("%s is left in %s", at.Path, root)
		}
	}
}
