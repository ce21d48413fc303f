package libvirt

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/libvirt/acl"
	"containerd-shim-uni/unikernel"
)

func asRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not root")
	}
}

// Two containerds with names in common, 200 starts at once, no user twice.
// Each start is a process, as a shim is; all begin when all are there. Every name wishes
// for the same few users, so that they collide.
func TestIdentitiesAreOneMachinesEach(t *testing.T) {
	if owner := os.Getenv("UNI_TEST_OWNER"); owner != "" {
		_, _ = io.Copy(io.Discard, os.Stdin)
		id, err := takeIdentity(os.Getenv("UNI_TEST_IDENTITIES"), owner, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("uid %d\n", id.uid)
		return
	}
	const starts = 200
	dir := filepath.Join(t.TempDir(), "identities")
	owners := colliding(starts)
	begin, hold, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer begin.Close()
	outputs := make([]bytes.Buffer, starts)
	var started []*exec.Cmd
	for i, owner := range owners {
		cmd := child(t, "UNI_TEST_OWNER="+owner, "UNI_TEST_IDENTITIES="+dir)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = begin, &outputs[i], &outputs[i]
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		started = append(started, cmd)
	}
	hold.Close()
	users := map[string]string{}
	for i, cmd := range started {
		err := cmd.Wait()
		_, uid, _ := strings.Cut(outputs[i].String(), "uid ")
		uid, _, _ = strings.Cut(uid, "\n")
		if err != nil || uid == "" {
			t.Fatalf("%s: %v: %s", owners[i], err, outputs[i].String())
		}
		if other := users[uid]; other != "" {
			t.Errorf("%s is %s's and %s's", uid, other, owners[i])
		}
		users[uid] = owners[i]
	}
	for _, owner := range users {
		if err := returnIdentity(dir, owner); err != nil {
			t.Error(err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// colliding are machines of two containerds, with names in common, in groups of
// eight that wish for users next to each other.
func colliding(count int) []string {
	byUID := map[int][]string{}
	var owners []string
	for i := 0; len(owners) < count; i++ {
		tgt := target{lib: "/run/uni" + strconv.Itoa(i%2) + "/lib"}
		owner := tgt.owner("uni-default--" + strconv.Itoa(i/2))
		near := candidates(owner)[0] / 4
		if byUID[near] = append(byUID[near], owner); len(byUID[near]) == 8 {
			owners = append(owners, byUID[near]...)
		}
	}
	return owners[:count]
}

// A user that another has is passed over, also while both wish for the same.
func TestIdentityTaken(t *testing.T) {
	dir := t.TempDir()
	uids := candidates("mine")
	boot, err := bootID()
	if err != nil {
		t.Fatal(err)
	}
	for _, uid := range uids[:window-1] {
		other := lease{dir: dir, uid: uid, record: record{Machine: "other's " + strconv.Itoa(uid), Boot: boot}}
		if err := other.claim(); err != nil {
			t.Fatal(err)
		}
	}
	id, err := takeIdentity(dir, "mine", nil, nil)
	if err != nil || id.uid != uids[window-1] {
		t.Fatalf("got %+v, %v", id, err)
	}
	last := lease{dir: dir, uid: id.uid, record: record{Machine: "late", Boot: boot}}
	if err := last.claim(); !errors.Is(err, fs.ErrExist) {
		t.Errorf("taken twice: %v", err)
	}
	if err := os.WriteFile(id.file(), []byte(`{"Machine":"full","Boot":"`+boot+`"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if id, err := takeIdentity(dir, "mine", nil, nil); err == nil {
		t.Errorf("none is free, got %d", id.uid)
	}
}

func TestIdentityOfAnEarlierBoot(t *testing.T) {
	asRoot(t)
	dir, layer := t.TempDir(), filepath.Join(t.TempDir(), "layer")
	uid := candidates("mine")[0]
	write(t, layer, "x", 0o600)
	if err := os.Chown(layer, uid, uid); err != nil {
		t.Fatal(err)
	}
	old := lease{dir: dir, uid: uid, record: record{Machine: "gone", Boot: "earlier", Files: []string{layer}}}
	if err := old.claim(); err != nil {
		t.Fatal(err)
	}
	id, err := takeIdentity(dir, "mine", nil, nil)
	if err != nil || id.uid != uid {
		t.Fatalf("got %+v, %v", id, err)
	}
	if got := fileOwner(t, layer); got != 0 {
		t.Errorf("the layer of before is %d's", got)
	}
}

// A file that comes while the machine runs is its user's until it goes, or the
// machine ends.
func TestIdentityLendsFiles(t *testing.T) {
	asRoot(t)
	dir, work := t.TempDir(), t.TempDir()
	for above := work; above != "/"; above = filepath.Dir(above) {
		if info, err := os.Stat(above); err != nil || info.Mode().Perm()&0o001 == 0 {
			if err := os.Chmod(above, 0o711); err != nil {
				t.Fatal(err)
			}
		}
	}
	d := &Driver{apart: true, identities: dir, account: account{name: "qemu", uid: 64055, gid: 64055}}
	owner := d.target.owner("m")
	id, err := takeIdentity(dir, owner, []string{"/cold"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	disk := func(name string, readOnly bool) unikernel.Disk {
		path := filepath.Join(work, name)
		write(t, path, "x", 0o600)
		return unikernel.Disk{Path: path, Format: "raw", ReadOnly: readOnly}
	}
	lends := func(d2 unikernel.Disk, wantAdded bool) {
		t.Helper()
		if added, err := d.lend("m", d2); err != nil || added != wantAdded {
			t.Errorf("lend %s: added %t, %v", d2.Path, added, err)
		}
	}
	has := func(files ...string) {
		t.Helper()
		now, err := readIdentity(dir, id.uid)
		if err != nil || now.Machine != owner || !slices.Equal(now.Files, files) {
			t.Errorf("the record is %+v, %v, want files %v", now, err, files)
		}
	}
	image, one, two := disk("image", true), disk("one", false), disk("two", false)
	lends(image, false)
	lends(one, true)
	lends(one, false)
	lends(two, true)
	has("/cold", one.Path, two.Path)
	for _, lent := range []unikernel.Disk{one, two} {
		if got := fileOwner(t, lent.Path); got != id.uid {
			t.Errorf("%s is %d's", lent.Path, got)
		}
	}
	if added, err := d.lend("m", unikernel.Disk{Path: filepath.Join(work, "missing"), Format: "raw"}); !added || !errors.Is(err, unikernel.ErrNotFound) {
		t.Errorf("a missing file: added %t, %v", added, err)
	}
	for _, back := range []string{"missing", "one", "one", "image"} {
		if err := d.takeBack("m", unikernel.Disk{Path: filepath.Join(work, back)}); err != nil {
			t.Error(err)
		}
	}
	has("/cold", two.Path)
	rootOwns(t, one.Path)
	if err := returnIdentity(dir, owner); err != nil {
		t.Fatal(err)
	}
	rootOwns(t, two.Path)
	if _, err := d.lend("m", one); !errors.Is(err, unikernel.ErrNotFound) {
		t.Errorf("lent to a machine that has ended: %v", err)
	}
	rootOwns(t, one.Path)
	if err := d.takeBack("m", one); err != nil {
		t.Errorf("taken back from a machine that has ended: %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// A file that is read has an entry for the machine's user until QEMU has it open, and
// at the latest until the user is given back: also one that a crash left.
func TestIdentityReads(t *testing.T) {
	asRoot(t)
	dir, work := t.TempDir(), t.TempDir()
	for above := work; above != "/"; above = filepath.Dir(above) {
		if err := os.Chmod(above, 0o711|perms(t, above)); err != nil {
			t.Fatal(err)
		}
	}
	if err := acl.Supported(work); err != nil {
		t.Skip(err)
	}
	image, kernel, later := filepath.Join(work, "image"), filepath.Join(work, "kernel"), filepath.Join(work, "later")
	for _, path := range []string{image, kernel, later} {
		write(t, path, "x", 0o600)
	}
	d := &Driver{apart: true, identities: dir, account: account{name: "qemu", uid: 64055, gid: 64055, lists: true}}
	disk := unikernel.Disk{Path: image, Format: "raw", ReadOnly: true}
	m := unikernel.Machine{Name: "m", Kernel: kernel, OwnKernel: true, Disks: []unikernel.Disk{disk}}
	reads := func(a account, yes bool, paths ...string) {
		t.Helper()
		for _, path := range paths {
			if readableAs(t, a.uid, a.gid, path) != yes {
				t.Errorf("%d reads %s: %t", a.uid, path, !yes)
			}
		}
	}
	user, err := d.admit(m)
	if err != nil || user.gid != user.uid {
		t.Fatalf("%+v, %v", user, err)
	}
	if err := d.admitTo(m, user); err != nil {
		t.Fatal(err)
	}
	stranger := account{uid: user.uid + 1, gid: 64055}
	reads(user, true, image, kernel)
	reads(stranger, false, image, kernel)
	for range 2 {
		if err := d.closeReads("m"); err != nil {
			t.Fatal(err)
		}
	}
	reads(user, false, image, kernel)
	disk.Path = later
	if lent, err := d.lend("m", disk); lent || err != nil {
		t.Errorf("lent %t, %v", lent, err)
	}
	reads(user, true, later)
	reads(stranger, false, later)
	if err := returnIdentity(dir, d.target.owner("m")); err != nil { // as after a crash
		t.Fatal(err)
	}
	reads(user, false, later)
	if err := d.closeReads("m"); err != nil {
		t.Errorf("of a machine that has ended: %v", err)
	}
	if got := perms(t, later); got != 0o600 {
		t.Errorf("the mode is %o", got)
	}
}

func perms(t *testing.T, path string) os.FileMode {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode().Perm()
}

// Nothing is given back while a process of the user runs, and then all is.
func TestIdentityIsKeptWhileAnythingIsLeft(t *testing.T) {
	asRoot(t)
	dir, work := t.TempDir(), t.TempDir()
	layer, others := filepath.Join(work, "layer"), filepath.Join(work, "others")
	write(t, layer, "x", 0o600)
	write(t, others, "x", 0o600)
	id, err := takeIdentity(dir, "mine", []string{layer, others, filepath.Join(work, "absent")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chown(layer, id.uid, 1), os.Chown(others, id.uid+1, 1)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "600")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(id.uid), Gid: 1}}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := returnIdentity(dir, "mine"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("given back under a process: %v", err)
	}
	if _, err := takeIdentity(dir, "mine", nil, nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second machine of the name: %v", err)
	}
	_ = cmd.Process.Kill()
	var info unix.Siginfo // ended, and not reaped: a zombie reaches nothing
	if err := unix.Waitid(unix.P_PID, cmd.Process.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	if err := returnIdentity(dir, "mine"); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait()
	if got := fileOwner(t, layer); got != 0 {
		t.Errorf("the layer is still %d's", got)
	}
	if got := fileOwner(t, others); got != id.uid+1 {
		t.Errorf("another machine's file became %d's", got)
	}
	if _, err := os.Stat(id.file()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the user is still taken: %v", err)
	}
}

// An owner that was killed leaves a process that is not QEMU yet: libvirt's child
// takes the user, and then becomes QEMU. It goes with the machine, others stay.
func TestKillUser(t *testing.T) {
	asRoot(t)
	dir := t.TempDir()
	started := map[string]*exec.Cmd{}
	for _, owner := range []string{"mine", "other's"} {
		id, err := takeIdentity(dir, owner, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("sleep", "600")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(id.uid), Gid: 1}}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		started[owner] = cmd
	}
	if err := killUser(t.Context(), dir, "mine"); err != nil {
		t.Error(err)
	}
	if err := returnIdentity(dir, "mine"); err != nil {
		t.Error(err)
	}
	if arguments(started["mine"].Process.Pid) != nil {
		t.Error("the machine's process runs on")
	}
	if arguments(started["other's"].Process.Pid) == nil {
		t.Error("another machine's process is gone")
	}
	if err := returnIdentity(dir, "other's"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("another machine's user is given back: %v", err)
	}
}

func fileOwner(t *testing.T, path string) int {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return int(st.Uid)
}

// TestIdentityOfOneThatWasKilled: what who was killed while it took a user left is
// removed by who cleans up after it, and in nobody's way.
func TestIdentityOfOneThatWasKilled(t *testing.T) {
	dir := t.TempDir()
	for _, clean := range []func() error{
		func() error { return returnIdentity(dir, "m@/l") },
		func() error {
			id, err := takeIdentity(dir, "m@/l", nil, nil)
			if err != nil {
				return err
			}
			return id.giveBack()
		},
	} {
		if err := os.WriteFile(unnamed(dir, "m@/l"), []byte(`{"Mach`), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := clean(); err != nil {
			t.Error(err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	}
}
