package libvirt

import (
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/libvirt/confine"
	"containerd-shim-uni/unikernel"
)

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestPrepareAndRemoveEmbed(t *testing.T) {
	root, caps := filepath.Join(t.TempDir(), "lv"), t.TempDir()
	write(t, filepath.Join(caps, "a.xml"), "<a/>", 0o600)
	write(t, filepath.Join(caps, "lock"), "", 0o600)
	for range 2 { // a root that another process left is taken over
		if err := prepareEmbed(root, caps, true); err != nil {
			t.Fatal(err)
		}
	}
	if got := read(t, filepath.Join(root, capsDir, "a.xml")); got != "<a/>" {
		t.Errorf("what is known of QEMU: %q", got)
	}
	if got := read(t, filepath.Join(root, "etc/qemu.conf")); got != qemuConf(true, confine.Possible() == nil) {
		t.Errorf("configuration: %q", got)
	}
	if _, err := os.Stat(filepath.Join(root, capsDir, "lock")); err == nil {
		t.Error("the lock was copied")
	}
	write(t, filepath.Join(root, "mine"), "x", 0o600)
	if err := removeEmbed(root); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(root); len(left) != 1 || left[0].Name() != "mine" {
		t.Errorf("left: %v, want the file that is not ours", left)
	}
	if err := os.Remove(filepath.Join(root, "mine")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := removeEmbed(root); err != nil {
			t.Fatal(err)
		}
	}
	if read(t, filepath.Join(caps, "a.xml")) != "<a/>" {
		t.Error("the shared file changed")
	}
}

func TestCopyCaps(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "new")
	write(t, filepath.Join(from, "a.xml"), "one", 0o600)
	if err := copyCaps(from, to); err != nil {
		t.Fatal(err)
	}
	if got := read(t, filepath.Join(to, "a.xml")); got != "one" {
		t.Errorf("got %q", got)
	}
	inode := func() uint64 {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(to, "a.xml"), &st); err != nil {
			t.Fatal(err)
		}
		return st.Ino
	}
	before := inode()
	if err := copyCaps(from, to); err != nil || inode() != before {
		t.Errorf("an equal file was written again (%v)", err)
	}
	write(t, filepath.Join(from, "a.xml"), "two", 0o600)
	if err := os.Chtimes(filepath.Join(from, "a.xml"), time.Time{}, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := copyCaps(from, to); err != nil {
		t.Fatal(err)
	}
	if got := read(t, filepath.Join(to, "a.xml")); got != "two" {
		t.Errorf("a changed file was not copied: %q", got)
	}
	if entries, _ := os.ReadDir(to); len(entries) != 1 {
		t.Errorf("left beside it: %v", entries)
	}
	if err := copyCaps(filepath.Join(from, "absent"), to); err != nil {
		t.Errorf("without a cache: %v", err)
	}
}

func TestLockCaps(t *testing.T) {
	caps := filepath.Join(t.TempDir(), "cache")
	unlock, err := lockCaps(t.Context(), caps)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := lockCaps(ctx, caps); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second lock: %v", err)
	}
	write(t, filepath.Join(caps, "a.xml"), "", 0o600) // known now: no one waits
	known, err := lockCaps(t.Context(), caps)
	if err != nil {
		t.Fatal(err)
	}
	known()
	if err := os.Remove(filepath.Join(caps, "a.xml")); err != nil {
		t.Fatal(err)
	}
	unlock()
	again, err := lockCaps(t.Context(), caps)
	if err != nil {
		t.Fatal(err)
	}
	again()
}

func TestOneEmbedAProcess(t *testing.T) {
	defer func(root string, used bool) { embed.root, embed.used = root, used }(embed.root, embed.used)
	embed.root, embed.used = "", false
	if err := claimEmbed("/run/a"); err != nil {
		t.Fatal(err)
	}
	if err := claimEmbed("/run/a"); !errors.Is(err, unikernel.ErrUnavailable) {
		t.Errorf("a second driver: %v", err)
	}
	yieldEmbed()
	if err := claimEmbed("/run/b"); !errors.Is(err, unikernel.ErrUnavailable) {
		t.Errorf("another root: %v", err)
	}
	if err := claimEmbed("/run/a"); err != nil {
		t.Errorf("the same root again: %v", err)
	}
}

// TestFailedEmbedLeavesNothing: whoever cleans up after another shim may take the
// directories of one that is starting away.
func TestFailedEmbedLeavesNothing(t *testing.T) {
	defer func(root string, used bool) { embed.root, embed.used = root, used }(embed.root, embed.used)
	embed.root, embed.used = "", false
	root := filepath.Join(t.TempDir(), "root")
	d := newDriver(target{root: root}, t.Logf)
	for _, file := range []string{"etc", "log"} { // where a directory is to be
		if err := os.MkdirAll(root, 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(root, file), "", 0o600)
		if err := d.openEmbedded(t.Context()); err == nil {
			t.Error("a root that cannot be made is used")
		}
		if _, err := os.Lstat(root); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v: the root is left", err)
		}
	}
}

func TestAllowed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	write(t, file, "", 0o600)
	me, mine := os.Getuid(), os.Getgid()
	other := account{name: "other", uid: 12345, gid: 12345, groups: []int{12345}}
	group := account{name: "group", uid: 12345, gid: 12345, groups: []int{12345, mine}}
	owner := account{name: "owner", uid: me}
	tests := []struct {
		mode   os.FileMode
		a      account
		access uint32
		want   bool
	}{
		{0o644, other, unix.R_OK, true},
		{0o640, other, unix.R_OK, false},
		{0o640, group, unix.R_OK, true},
		{0o604, group, unix.R_OK, false}, // the group's bits count, not the others'
		{0o660, group, unix.R_OK | unix.W_OK, true},
		{0o640, group, unix.R_OK | unix.W_OK, false},
		{0o711, other, unix.X_OK, true},
		{0o700, other, unix.X_OK, false},
		{0o000, owner, unix.R_OK, me == 0},
		{0o000, root, unix.R_OK | unix.W_OK, true},
	}
	for _, tt := range tests {
		if err := os.Chmod(file, tt.mode); err != nil {
			t.Fatal(err)
		}
		if got := tt.a.allowed(file, tt.access); got != tt.want {
			t.Errorf("mode %o, %s, access %d: %v", tt.mode, tt.a.name, tt.access, got)
		}
	}
	if root.allowed(filepath.Join(file, "absent"), unix.R_OK) {
		t.Error("a file that is not there")
	}
}

// Machines have one group each: the one that opens KVM's device.
func TestWithGroupFor(t *testing.T) {
	device := filepath.Join(t.TempDir(), "kvm")
	write(t, device, "", 0o600)
	mine := os.Getgid()
	other, further := mine+1, mine+2
	for _, tt := range []struct {
		name   string
		mode   os.FileMode
		groups []int // the first one is the account's own
		gid    int
		ok     bool
	}{
		{"the first group", 0o660, []int{mine, other}, mine, true},
		{"a further group", 0o660, []int{other, further, mine}, mine, true},
		{"everybody", 0o666, []int{other, further}, other, true},
		{"no group of the user", 0o660, []int{other, further}, 0, false},
		{"only its owner", 0o600, []int{mine}, 0, false},
		{"read only", 0o640, []int{mine}, 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := os.Chmod(device, tt.mode); err != nil {
				t.Fatal(err)
			}
			a, ok := withGroupFor(account{name: "qemu", uid: 12345, gid: tt.groups[0], groups: tt.groups}, device)
			if ok != tt.ok || ok && a.gid != tt.gid {
				t.Errorf("got group %d, %v; want %d, %v", a.gid, ok, tt.gid, tt.ok)
			}
		})
	}
}

func TestTapsThere(t *testing.T) {
	if err := tapsThere([]unikernel.NIC{{Tap: "lo"}}); err != nil {
		t.Error(err)
	}
	if err := tapsThere([]unikernel.NIC{{Tap: "lo"}, {Tap: "uni-absent"}}); !errors.Is(err, unikernel.ErrNotFound) {
		t.Errorf("got %v, want not found", err)
	}
}

func TestGrant(t *testing.T) {
	dir := t.TempDir()
	kernel := filepath.Join(dir, "vmlinux")
	write(t, kernel, "", 0o644)
	disk := func(name string) unikernel.Disk {
		path := filepath.Join(dir, name)
		write(t, path, "x", 0o644)
		return unikernel.Disk{Path: path, Format: "raw", Serial: "root", ReadOnly: true}
	}
	me := account{name: "me", uid: os.Getuid(), gid: os.Getgid(), groups: []int{os.Getgid()}}
	other := account{name: "other", uid: 12345, gid: 12345, groups: []int{12345}}
	mate := account{name: "mate", uid: 12345, gid: os.Getgid(), groups: []int{os.Getgid()}}
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	private := filepath.Join(dir, "private")
	write(t, private, "", 0o600)
	tests := []struct {
		name string
		a    account
		edit func(m *unikernel.Machine)
		want error
	}{
		{"all is there", me, func(*unikernel.Machine) {}, nil},
		{"no kernel", me, func(m *unikernel.Machine) { m.Kernel += "x" }, unikernel.ErrNotFound},
		{"no initrd", me, func(m *unikernel.Machine) { m.Initrd = filepath.Join(t.TempDir(), "absent") }, unikernel.ErrNotFound},
		{"kernel is a directory", me, func(m *unikernel.Machine) { m.Kernel = dir }, unikernel.ErrInvalid},
		{"no disk", me, func(m *unikernel.Machine) { m.Disks[0].Path += "x" }, unikernel.ErrNotFound},
		{"no qcow2", me, func(m *unikernel.Machine) { m.Disks[0].Format = "qcow2" }, unikernel.ErrInvalid},
		{"somebody's kernel", mate, func(m *unikernel.Machine) { m.Initrd = private }, unikernel.ErrInvalid},
		{"the machine's own", mate, func(m *unikernel.Machine) { m.Initrd, m.OwnKernel = private, true }, nil},
		{"closed directory", other, func(m *unikernel.Machine) {
			m.Kernel = filepath.Join(dir, "closed/vmlinux")
			write(t, m.Kernel, "", 0o644)
			if err := os.Chmod(filepath.Dir(m.Kernel), 0o700); err != nil {
				t.Fatal(err)
			}
		}, unikernel.ErrInvalid},
	}
	for _, tt := range tests {
		m := unikernel.Machine{Kernel: kernel, Disks: []unikernel.Disk{disk("root.erofs")}}
		tt.edit(&m)
		if err := grant(m, tt.a); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
		}
	}
}

// qcow2 returns the start of an image with this backing file.
func qcow2(offset uint64, size uint32, name string) string {
	head := make([]byte, 104, 104+len(name))
	copy(head, "QFI\xfb")
	binary.BigEndian.PutUint64(head[8:], offset)
	binary.BigEndian.PutUint32(head[16:], size)
	return string(append(head, name...))
}

func TestBackingFile(t *testing.T) {
	dir := t.TempDir()
	tests := []struct {
		name, image, want string
		err               error
	}{
		{"none", qcow2(0, 0, ""), "", nil},
		{"absolute", qcow2(104, 11, "/srv/t.ext4"), "/srv/t.ext4", nil},
		{"relative", qcow2(104, 6, "t.ext4"), filepath.Join(dir, "t.ext4"), nil},
		{"name too long", qcow2(104, 5000, "t"), "", unikernel.ErrInvalid},
		{"far away", qcow2(1<<40, 5, "t"), "", unikernel.ErrInvalid},
		{"another format", "\x7fELF and more than twenty bytes", "", unikernel.ErrInvalid},
		{"short", "QFI", "", unikernel.ErrInvalid},
	}
	for _, tt := range tests {
		path := filepath.Join(dir, "image")
		write(t, path, tt.image, 0o600)
		if got, err := backingFile(path); got != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("%s: got %q, %v", tt.name, got, err)
		}
	}
	write(t, filepath.Join(dir, "cut"), qcow2(104, 200, "t"), 0o600)
	if _, err := backingFile(filepath.Join(dir, "cut")); err == nil {
		t.Error("a name behind the end of the file")
	}
}
