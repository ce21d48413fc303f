package states

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"containerd-shim-uni/builder/flock"
)

func content(text string) func(*os.File) error {
	return func(f *os.File) error { _, err := f.WriteString(text); return err }
}

func made(t *testing.T, s *Store, shape string) {
	t.Helper()
	if err := s.Make(shape, "about "+shape, false, content("state of "+shape)); err != nil {
		t.Fatal(err)
	}
}

func TestMakeAndFind(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	s := New(data, 0)
	if _, err := s.Find("a"); !errors.Is(err, fs.ErrNotExist) || !s.Wanted("a") {
		t.Errorf("nothing is there: %v", err)
	}
	if list, err := s.List(); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
	made(t, s, "a")
	file, err := s.Find("a")
	if err != nil || s.Wanted("a") {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != "state of a" {
		t.Errorf("%q, %v", data, err)
	}
	if err := s.Verify("a"); err != nil {
		t.Error(err)
	}
	for _, path := range []string{file, filepath.Dir(file), filepath.Dir(filepath.Dir(file))} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is open to others: %v, %v", path, info.Mode(), err)
		}
	}
	if info, err := os.Stat(data); err != nil || info.Mode().Perm() != 0o711 {
		t.Errorf("QEMU cannot pass through to disks: %v, %v", info.Mode(), err)
	}
	made(t, s, "b")
	// There is one: nothing is written.
	if err := s.Make("a", "", false, func(*os.File) error { return errors.New("asked again") }); err != nil {
		t.Error(err)
	}
	if _, err := s.Find("a"); err != nil { // used last
		t.Fatal(err)
	}
	list, err := s.List()
	if err != nil || len(list) != 2 || list[0].Shape != "a" || list[0].About != "about a" || list[0].Size != 10 || list[0].Bad != "" {
		t.Errorf("%+v, %v", list, err)
	}
	if err := s.Remove("a"); err != nil {
		t.Error(err)
	}
	if err := s.Remove("a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("remove what is not there: %v", err)
	}
	if _, err := s.Find("a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is removed: %v", err)
	}
}

// TestDamage: what was cut, changed or is half there is not used.
func TestDamage(t *testing.T) {
	for what, damage := range map[string]func(dir string) error{
		"cut":      func(dir string) error { return os.Truncate(dir+"/state", 3) },
		"longer":   func(dir string) error { return os.Truncate(dir+"/state", 30) },
		"changed":  func(dir string) error { return os.WriteFile(dir+"/state", []byte("State of a"), 0o600) },
		"no meta":  func(dir string) error { return os.Remove(dir + "/meta.json") },
		"meta":     func(dir string) error { return os.WriteFile(dir+"/meta.json", []byte("{"), 0o600) },
		"no state": func(dir string) error { return os.Remove(dir + "/state") },
	} {
		t.Run(what, func(t *testing.T) {
			s := New(t.TempDir(), 0)
			made(t, s, "a")
			if err := damage(filepath.Join(s.dir, "a")); err != nil {
				t.Fatal(err)
			}
			if err := s.Verify("a"); err == nil {
				t.Error("it is said to be good")
			}
			if _, err := s.Find("a"); err == nil && what != "changed" { // which only Verify sees
				t.Error("it is found")
			}
			if _, err := s.List(); err != nil {
				t.Error(err)
			}
			if err := s.Reject("a", errors.New("damaged")); err != nil {
				t.Fatal(err)
			}
			if err := s.Make("a", "", true, content("new")); err != nil {
				t.Fatal(err)
			}
			if err := s.Verify("a"); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestBad: one that was no good is not made again at once, unless somebody insists.
func TestBad(t *testing.T) {
	s := New(t.TempDir(), 0)
	failed := errors.New("the disk is full")
	if err := s.Make("a", "", false, func(*os.File) error { return failed }); !errors.Is(err, failed) {
		t.Errorf("%v", err)
	}
	if s.Wanted("a") {
		t.Error("it is wanted again at once")
	}
	if err := s.Make("a", "", false, content("x")); !errors.Is(err, ErrBad) || !strings.Contains(err.Error(), failed.Error()) {
		t.Errorf("%v", err)
	}
	if list, err := s.List(); err != nil || len(list) != 1 || list[0].Bad != failed.Error() {
		t.Errorf("%+v, %v", list, err)
	}
	if err := s.Make("a", "", true, content("x")); err != nil {
		t.Error(err)
	}
	if list, err := s.List(); err != nil || len(list) != 1 || list[0].Bad != "" {
		t.Errorf("%+v, %v", list, err)
	}
	if err := s.Reject("b", failed); err != nil {
		t.Fatal(err)
	}
	old := fmt.Sprintf(`{"at": %q, "why": "x"}`, time.Now().Add(-2*badFor).Format(time.RFC3339))
	if err := os.WriteFile(filepath.Join(s.dir, "b.bad"), []byte(old), 0o600); err != nil {
		t.Fatal(err)
	}
	if !s.Wanted("b") {
		t.Error("it is not wanted for ever")
	}
	made(t, s, "b")
}

// TestBounds: there are at most so many, the ones that were used last; and none where
// the disk is full.
func TestBounds(t *testing.T) {
	s := New(t.TempDir(), 0)
	for i := range Most {
		shape := fmt.Sprintf("s%02d", i)
		made(t, s, shape)
		at := time.Now().Add(time.Duration(i-Most) * time.Minute)
		if err := os.Chtimes(filepath.Join(s.dir, shape, metaFile), at, at); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Find("s00"); err != nil { // s01 is the oldest now
		t.Fatal(err)
	}
	made(t, s, "another")
	list, err := s.List()
	if err != nil || len(list) != Most {
		t.Errorf("%d templates, %v", len(list), err)
	}
	for _, l := range list {
		if l.Shape == "s01" {
			t.Error("the one that was not used for the longest time is there")
		}
	}
	full := New(t.TempDir(), 1<<60)
	if err := full.Make("a", "", false, content("x")); err == nil || !strings.Contains(err.Error(), "storage.min_free") {
		t.Errorf("no room: %v", err)
	}
}

// TestKilled: what killed makers have left goes with the next; while one makes, others
// do not wait for it.
func TestKilled(t *testing.T) {
	s := New(t.TempDir(), 0)
	made(t, s, "a")
	left := filepath.Join(s.dir, tempPrefix+"123")
	if err := os.Mkdir(left, 0o700); err != nil {
		t.Fatal(err)
	}
	lock, err := flock.Try(filepath.Join(s.dir, lockFile))
	if err != nil || lock == nil {
		t.Fatal(err)
	}
	if err := s.Make("b", "", false, content("x")); !errors.Is(err, ErrBusy) {
		t.Errorf("%v", err)
	}
	lock.Unlock()
	made(t, s, "b")
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is left: %v", err)
	}
}

// TestTogether: those who look while others make, reject and remove find all of a
// template, or none.
func TestTogether(t *testing.T) {
	s := New(t.TempDir(), 0)
	done := make(chan struct{})
	var looking sync.WaitGroup
	for range 4 {
		looking.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if _, err := s.Find("a"); err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Error(err)
					return
				}
				if _, err := s.List(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 20 {
		if err := s.Make("a", "", true, content("state of a")); err != nil {
			t.Error(err)
		}
		if err := s.Remove("a"); err != nil {
			t.Error(err)
		}
	}
	close(done)
	looking.Wait()
}
