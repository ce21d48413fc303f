package kernels

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"containerd-shim-uni/builder/kernels/kerneltest"
	"containerd-shim-uni/unikernel"
)

func TestDefault(t *testing.T) {
	s := newStore(t)
	if err := s.Use("a"); !errors.Is(err, unikernel.ErrNotFound) {
		t.Errorf("nothing installed: %v", err)
	}
	mustInstall(t, s, "a", "")
	from := kerneltest.Write(t, t.TempDir(), kerneltest.Release(""))
	if i, err := s.Install(t.Context(), Request{From: from, Version: "b", KeepDefault: true}); err != nil || i.Default || s.current() != "a" {
		t.Errorf("%+v, %v, the default is %s", i, err, s.current())
	}
	if mustInstall(t, s, "c", ""); s.current() != "c" {
		t.Errorf("the default is %s", s.current())
	}
	if err := s.Use("b"); err != nil || s.current() != "b" {
		t.Errorf("%v, the default is %s", err, s.current())
	}
	for _, version := range []string{"none", "../a", "current", "lock", ""} {
		if err := s.Use(version); !errors.Is(err, unikernel.ErrNotFound) && !errors.Is(err, unikernel.ErrInvalid) {
			t.Errorf("%q: %v", version, err)
		}
	}
	list, err := s.List()
	if err != nil || len(list) != 3 || list[0].Version != "c" || list[2].Version != "a" || list[0].Default || !list[1].Default {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestRemove(t *testing.T) {
	s := newStore(t)
	if err := s.Remove("a", false); !errors.Is(err, unikernel.ErrNotFound) {
		t.Errorf("nothing installed: %v", err)
	}
	mustInstall(t, s, "a", "")
	mustInstall(t, s, "b", "")
	if err := s.Remove("b", false); !errors.Is(err, ErrDefault) {
		t.Errorf("the default one: %v", err)
	}
	if err := errors.Join(s.Remove("a", false), s.Remove("b", false)); err != nil {
		t.Errorf("another one, then the last: %v", err)
	}
	if got := names(t, s); len(got) > 0 {
		t.Errorf("there are %q", got)
	}
	mustInstall(t, s, "a", "")
	mustInstall(t, s, "b", "")
	if err := s.Remove("b", true); err != nil || s.current() != "" {
		t.Errorf("by force: %v, the default is %q", err, s.current())
	}
	if got := names(t, s); !slices.Equal(got, []string{"a"}) {
		t.Errorf("there are %q", got)
	}
}

// A directory that somebody else made is shown, not used, and can be removed.
func TestWithoutAManifest(t *testing.T) {
	s := newStore(t)
	mustInstall(t, s, "a", "")
	kerneltest.Write(t, filepath.Join(s.dir, "mine"), kerneltest.Release(""))
	kerneltest.Write(t, filepath.Join(s.dir, "odd"), map[string]string{manifestName: `{"format": 2}`})
	list, err := s.List()
	if err != nil || len(list) != 3 || list[0].Err != nil || list[1].Err == nil || list[1].Version != "mine" || list[2].Err == nil {
		t.Errorf("%+v, %v", list, err)
	}
	if err := s.Use("mine"); !errors.Is(err, unikernel.ErrNotFound) {
		t.Errorf("use: %v", err)
	}
	if faults, err := s.Verify(t.Context(), "mine"); len(faults) != 1 || faults[0].File != manifestName || err != nil {
		t.Errorf("verify: %v, %v", faults, err)
	}
	if err := errors.Join(s.Remove("mine", false), s.Remove("odd", false)); err != nil {
		t.Errorf("remove: %v", err)
	}
}

func TestVerify(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(dir string) error
		want   string
	}{
		"changed": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "klibs/tls"), []byte("Library "), 0o644)
		}, "klibs/tls has the SHA-256"},
		"longer":  {func(dir string) error { return os.Truncate(filepath.Join(dir, "boot.img"), 2048) }, "boot.img has 2048 bytes, not 1024"},
		"missing": {func(dir string) error { return os.Remove(filepath.Join(dir, "kernel.img")) }, "kernel.img is missing"},
		"new":     {func(dir string) error { return os.WriteFile(filepath.Join(dir, "klibs/x"), nil, 0o644) }, "klibs/x was not installed"},
		"a link": {func(dir string) error {
			return errors.Join(os.Rename(filepath.Join(dir, "boot.img"), filepath.Join(dir, "../boot")), os.Symlink("../boot", filepath.Join(dir, "boot.img")))
		}, "boot.img is no file"},
		"no manifest": {func(dir string) error { return os.Remove(filepath.Join(dir, manifestName)) }, "manifest.json not found"},
	} {
		s := newStore(t)
		i := mustInstall(t, s, "v", "")
		if err := tt.change(i.Dir); err != nil {
			t.Fatal(err)
		}
		faults, err := s.Verify(t.Context(), "v")
		if err != nil || len(faults) != 1 || !strings.HasPrefix(faults[0].File+" "+faults[0].Text, tt.want) {
			t.Errorf("%s: %v, %v, want %q", name, faults, err, tt.want)
		}
	}
	if _, err := newStore(t).Verify(t.Context(), "v"); !errors.Is(err, unikernel.ErrNotFound) {
		t.Errorf("nothing installed: %v", err)
	}
}

func FuzzPlace(f *testing.F) {
	for _, name := range []string{"boot.img", "./kernel.img", "x/klibs/tls", "../boot.img", "/boot.img", "klibs/../boot.img", `a\b`} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		at, err := place(name)
		if err == nil && at != "" && at != "boot.img" && at != "kernel.img" && (filepath.Dir(at) != klibs || !filepath.IsLocal(at)) {
			t.Errorf("%q is placed at %q", name, at)
		}
	})
}
