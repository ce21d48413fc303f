package flock

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestLocksKeepOthersOut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := Shared(path)
	if err != nil {
		t.Fatal(err)
	}
	second, err := Shared(path)
	if err != nil {
		t.Fatal(err)
	}
	first.Unlock()
	if l, err := Try(path); l != nil || err != nil {
		t.Errorf("a shared lock is held, yet Try gave %v, %v", l, err)
	}
	second.Unlock()
	l, err := Exclusive(path)
	if err != nil {
		t.Fatal(err)
	}
	if l, err := Try(path); l != nil || err != nil {
		t.Errorf("a lock is held, yet Try gave %v, %v", l, err)
	}
	l.Remove()
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the removed lock's file: %v", err)
	}
}

// A lock on a file that its holder removed is no lock.
func TestTryOnARemovedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	l, err := Try(path)
	if l == nil || err != nil {
		t.Fatal(l, err)
	}
	l.Remove()
	if l, err = Try(path); l == nil || err != nil {
		t.Fatalf("the file is free again: %v, %v", l, err)
	}
	l.Remove()
	if _, err := Exclusive(filepath.Join(path, "in", "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
}
