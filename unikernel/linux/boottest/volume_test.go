package boottest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"containerd-shim-uni/unikernel"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// configMap is a volume as the kubelet makes it.
func configMap(version string) unikernel.VolumeContent {
	return unikernel.VolumeContent{Files: []unikernel.VolumeFile{
		{Path: ".", Mode: unix.S_IFDIR | 0o2750, GID: 7},
		{Path: ".." + version, Mode: unix.S_IFDIR | 0o755},
		{Path: ".." + version + "/key", Mode: unix.S_IFREG | 0o440, UID: 5, GID: 7, Data: version + "\n"},
		{Path: "..data", Mode: unix.S_IFLNK | 0o777, Data: ".." + version},
		{Path: "key", Mode: unix.S_IFLNK | 0o777, Data: "..data/key"},
	}}
}

// TestVolumes: a machine keeps volumes for its containers, without a shared directory.
func TestVolumes(t *testing.T) {
	needQEMU(t)
	root := image(t)
	a := app("sh", "-c", "while :; do sleep 0.05; done")
	socket := filepath.Join(t.TempDir(), "qmp.sock")
	m := bootWith(t, "microvm", unikernel.Resources{MemoryMiB: 256, VCPUs: 2}, root, a,
		"-device", "virtio-scsi-device,id=scsi0,num_queues=1", "-qmp", "unix:"+socket+",server=on,wait=off")
	q := dialMonitor(t, socket)
	if err := m.session.(unikernel.PodSession).Configure(m.context(), a, ""); err != nil {
		t.Fatal(err)
	}
	keeper := m.session.(unikernel.VolumeKeeper)
	set := func(name string, v unikernel.VolumeContent) {
		t.Helper()
		if err := keeper.SetVolume(m.context(), name, v); err != nil {
			t.Fatal(err)
		}
	}
	hosts := func(data string) unikernel.VolumeContent {
		return unikernel.VolumeContent{Files: []unikernel.VolumeFile{{Path: "file", Mode: unix.S_IFREG | 0o644, Data: data}}}
	}
	set("1", configMap("one"))
	set("2", hosts("127.0.0.1 one\n"))
	set("3", unikernel.VolumeContent{Memory: true, Options: []string{"noexec", "size=1m", "mode=2777", "gid=7"},
		Files: []unikernel.VolumeFile{{Path: "a", Mode: unix.S_IFDIR | 0o2775, GID: 7}}})
	watch := filepath.Join(t.TempDir(), "watch")
	command(t, "env", "CGO_ENABLED=0", "go", "build", "-o", watch, "testdata/watch/main.go")
	program, err := os.ReadFile(watch)
	if err != nil {
		t.Fatal(err)
	}
	set("4", unikernel.VolumeContent{Files: []unikernel.VolumeFile{{Path: "file", Mode: unix.S_IFREG | 0o755, Data: string(program)}}})
	with := func(volumes ...string) unikernel.App {
		b := app(a.Spec.Process.Args...)
		for i := 0; i < len(volumes); i += 3 {
			mount := specs.Mount{Type: "bind", Source: "/h/" + volumes[i], Destination: volumes[i+1], Options: []string{"rbind", "rprivate", volumes[i+2]}}
			name, path, _ := strings.Cut(volumes[i], "/")
			b.Spec.Mounts = append(b.Spec.Mounts, mount)
			b.Volumes = append(b.Volumes, unikernel.VolumeMount{Mount: mount, Volume: name, Path: path})
		}
		return b
	}
	one := m.add(with("1", "/config", "ro", "2/file", "/etc/hosts", "rw", "3", "/shared", "rw", "3/a", "/part", "rw", "4/file", "/watch", "ro"), unikernel.SerialRoot, unikernel.SerialWritable)
	q.attach("b-root", root, 2, true)
	q.attach("b-upper", writableDisk(t), 3, false)
	two := m.add(with("3", "/all", "rw", "1", "/config", "ro"), "b-root", "b-upper")

	for _, c := range []struct {
		in           *member
		script, want string
	}{
		{one, "cat /config/key; stat -c '%u %g %a' /config /config/key /config/..data/key /shared /part", "one\n0 7 2750\n0 0 777\n5 7 440\n0 7 2777\n0 7 2775\n"},
		{one, "touch /config/x 2>/dev/null || echo no; rm /config/key 2>/dev/null || echo no; grep -c virtiofs /proc/mounts", "no\nno\n0\n"},
		{one, "cat /etc/hosts; echo 10.0.0.1 mine >>/etc/hosts && tail -n 1 /etc/hosts", "127.0.0.1 one\n10.0.0.1 mine\n"},
		{one, "echo x >/part/file; dd if=/dev/zero of=/shared/big bs=1M count=2 2>/dev/null || echo full; rm /shared/big; grep -c 'shared tmpfs.*noexec.*size=1024k' /proc/mounts", "full\n1\n"},
		{two, "cat /all/a/file; stat -c '%g' /all/a/file; echo y >/all/other", "x\n7\n"},
		{one, "cat /shared/other", "y\n"},
	} {
		if r := c.in.sh(c.script); r.out != c.want {
			t.Errorf("%s: %q %s, want %q", c.script, r.out, r.errOut, c.want)
		}
	}

	// A program that watches gets events of what the host changes.
	var events lockedBuffer
	watcher, err := one.Exec(m.context(), "w", process("/watch", "/config", "/etc/hosts"), unikernel.Stdio{Stdout: &events})
	if err != nil {
		t.Fatal(err)
	}
	waitOutput(t, &events, "watching <nil>\n")
	set("1", configMap("two"))
	set("2", hosts("127.0.0.1 two\n"))
	waitOutput(t, &events, "/config ..data\n")
	waitOutput(t, &events, "/etc/hosts \n")
	for _, s := range []*member{one, two} {
		if r := s.sh("cat /config/key; ls -A /config"); r.out != "two\n..data\n..two\nkey\n" {
			t.Errorf("after the change: %+v", r)
		}
	}
	if r := one.sh("cat /etc/hosts"); r.out != "127.0.0.1 two\n" {
		t.Errorf("hosts after the change: %+v", r)
	}
	_ = watcher.Signal(m.context(), unix.SIGKILL, false)

	if err := one.Remove(m.context()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"2", "3", "3"} {
		if err := keeper.RemoveVolume(m.context(), name); err != nil {
			t.Error(err)
		}
	}
	if r := two.sh("cat /all/a/file /config/key"); r.out != "x\ntwo\n" {
		t.Errorf("in the other: %+v", r)
	}
	m.finish()
}
