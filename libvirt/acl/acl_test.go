package acl

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestAccess asks with processes of the users: what one is given it has, until it is
// taken, and the file's mode is as before.
func TestAccess(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root")
	}
	const one, two, stranger = 2_100_000_001, 2_100_000_002, 2_100_000_003
	dir, err := os.MkdirTemp("/var/tmp", "uni-acl-") // where others may pass
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "root")
	for _, mode := range []os.FileMode{0o600, 0o640, 0o444} {
		if err := errors.Join(os.WriteFile(file, []byte("x"), 0o600), os.Chmod(file, mode)); err != nil {
			t.Fatal(err)
		}
		if err := Supported(file); err != nil {
			t.Skipf("no access lists: %v", err)
		}
		open := mode&0o004 != 0
		has := func(uid uint32, reads, writes bool) {
			t.Helper()
			for test, want := range map[string]bool{"-r": reads, "-w": writes} {
				cmd := exec.CommandContext(t.Context(), "test", test, file)
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
				if got := cmd.Run() == nil; got != want {
					t.Errorf("mode %o: test %s as %d is %t, want %t", mode, test, uid, got, want)
				}
			}
		}
		for range 2 { // again is as once
			if err := errors.Join(Allow(file, one, Read), Allow(file, two, Read|Write)); err != nil {
				t.Fatal(err)
			}
		}
		has(one, true, false)
		has(two, true, true)
		has(stranger, open, false)
		if err := Remove(file, two); err != nil {
			t.Fatal(err)
		}
		has(one, true, false)
		has(two, open, false)
		for range 2 {
			if err := Remove(file, one); err != nil {
				t.Fatal(err)
			}
		}
		has(one, open, false)
		info, err := os.Stat(file)
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("mode %o became %v, %v", mode, info.Mode(), err)
		}
		if _, err := unix.Getxattr(file, attribute, nil); !errors.Is(err, unix.ENODATA) {
			t.Errorf("mode %o: a list is left: %v", mode, err)
		}
	}
	if err := Remove(filepath.Join(dir, "absent"), one); err != nil {
		t.Error(err)
	}
	if err := Allow(filepath.Join(dir, "absent"), one, Read); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	if err := SupportedFor(filepath.Join(dir, "absent/below")); err != nil {
		t.Error(err)
	}
	if err := SupportedFor("/proc/absent"); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("/proc has access lists: %v", err)
	}
}

// TestOthersEntriesStay: what an operator let others have, and the bound on it.
func TestOthersEntriesStay(t *testing.T) {
	before := []entry{{tagOwner, 6, noID}, {tagUser, 4, 1000}, {tagGroupObj, 0, noID}, {tagGroup, 7, 50}, {tagMask, 4, noID}, {tagOther, 0, noID}}
	list := allow(slices.Clone(before), 7, Read)
	want := slices.Insert(slices.Clone(before), 2, entry{tagUser, 4, 7})
	if !slices.Equal(list, want) {
		t.Errorf("got %v, want %v", list, want)
	}
	if again, err := decode(encode(list)); err != nil || !slices.Equal(again, want) {
		t.Errorf("read back as %v, %v", again, err)
	}
	if list = remove(list, 7); !slices.Equal(list, before) {
		t.Errorf("then %v, want %v", list, before)
	}
	for _, bad := range []string{"", "\x02", "\x01\x00\x00\x00", "\x02\x00\x00\x00abc"} {
		if list, err := decode([]byte(bad)); err == nil {
			t.Errorf("%q is %v", bad, list)
		}
	}
}
