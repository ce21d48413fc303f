package kernels

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"containerd-shim-uni/builder/kernels/kerneltest"
	"containerd-shim-uni/unikernel"
)

// newStore returns a Store whose directory does not exist yet.
func newStore(t *testing.T) *Store {
	t.Helper()
	return New(filepath.Join(t.TempDir(), "data", "kernels", "nanos"), Options{Log: t.Logf})
}

// mustInstall installs a release of a directory.
func mustInstall(t *testing.T, s *Store, version, text string) Installed {
	t.Helper()
	i, err := s.Install(t.Context(), Request{From: kerneltest.Write(t, t.TempDir(), kerneltest.Release(text)), Version: version})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// names lists the Store's directory without the lock.
func names(t *testing.T, s *Store) []string {
	t.Helper()
	entries, err := os.ReadDir(s.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	list := []string{}
	for _, e := range entries {
		if e.Name() != "lock" {
			list = append(list, e.Name())
		}
	}
	return list
}

func archiveFile(t *testing.T, name string, data []byte) string {
	t.Helper()
	kerneltest.Write(t, filepath.Dir(name), map[string]string{filepath.Base(name): string(data)})
	return name
}

func compressed(t *testing.T, data []byte, w io.WriteCloser, out *bytes.Buffer) []byte {
	t.Helper()
	_, err := w.Write(data)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestInstallFromAnySource(t *testing.T) {
	release := kerneltest.Release("")
	inFolder := map[string]string{"nanos/": "", "nanos/klibs/": ""}
	for name, data := range release {
		inFolder["nanos/"+name] = data
	}
	withOthers := maps.Clone(release)
	withOthers["bootx64.efi"], withOthers["klibs/sub/x"], withOthers["README"] = "x", "x", "x"
	plain := kerneltest.Tar(t, release)
	var zipped, zst bytes.Buffer
	zw, err := zstd.NewWriter(&zst)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := func(name string, data []byte) string { return archiveFile(t, filepath.Join(dir, name), data) }
	commit := kerneltest.Nanos().Commit
	for _, tt := range []struct{ from, asked, version string }{
		{kerneltest.Write(t, t.TempDir(), release), "", "git-" + commit[:12]},
		{kerneltest.Write(t, t.TempDir(), withOthers), "mine", "mine"},
		{file("nanos-release-linux-0.1.55.tar", plain), "", "0.1.55"},
		{file("nanos-release-linux-0.1.56.tar.gz", compressed(t, plain, gzip.NewWriter(&zipped), &zipped)), "", "0.1.56"},
		{file("some.tar.zst", compressed(t, plain, zw, &zst)), "z", "z"},
		{file("folder.tar", kerneltest.Tar(t, inFolder)), "f", "f"},
		{file("others.tar", kerneltest.Tar(t, withOthers)), "o", "o"},
	} {
		s := newStore(t)
		i, err := s.Install(t.Context(), Request{From: tt.from, Version: tt.asked})
		if err != nil {
			t.Errorf("%s: %v", tt.from, err)
			continue
		}
		if i.Version != tt.version || i.Commit != commit || i.Source != tt.from || !i.Default || len(i.Files) != len(release) {
			t.Errorf("%s: %+v", tt.from, i)
		}
		if got := names(t, s); !slices.Equal(got, []string{tt.version, "current"}) && !slices.Equal(got, []string{"current", tt.version}) {
			t.Errorf("%s: there are %q", tt.from, got)
		}
		for name, want := range release {
			path := filepath.Join(s.currentPath(), name)
			got, err := os.ReadFile(path)
			if err != nil || string(got) != want {
				t.Errorf("%s: %s has %d bytes, %v", tt.from, name, len(got), err)
			}
			if st, err := os.Stat(path); err != nil || st.Mode() != 0o644 {
				t.Errorf("%s: QEMU's user cannot read %s: %v, %v", tt.from, name, st, err)
			}
		}
		if faults, err := s.Verify(t.Context(), tt.version); len(faults) > 0 || err != nil {
			t.Errorf("%s: %v, %v", tt.from, faults, err)
		}
	}
}

// A release that is refused leaves nothing behind and what was there alone.
func TestInstallRefuses(t *testing.T) {
	release := kerneltest.Release("")
	with := func(name, data string) []byte {
		files := maps.Clone(release)
		files[name] = data
		return kerneltest.Tar(t, files)
	}
	without := func(name string) []byte {
		files := maps.Clone(release)
		delete(files, name)
		return kerneltest.Tar(t, files)
	}
	entry := func(h tar.Header) []byte {
		all := []tar.Header{h}
		for name, data := range release {
			all = append(all, tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(data))})
		}
		return kerneltest.TarOf(t, all, release)
	}
	arm := kerneltest.Nanos()
	arm.Machine = elf.EM_AARCH64
	many := maps.Clone(release)
	for i := range releaseLimits.entries {
		many[fmt.Sprintf("%d", i)] = ""
	}
	huge := kerneltest.TarOf(t, []tar.Header{{Typeflag: tar.TypeReg, Name: "klibs/x"}}, nil)
	copy(huge[124:136], fmt.Sprintf("%011o\x00", releaseLimits.file+1))
	copy(huge[148:156], checksum(huge[:512]))

	for name, tt := range map[string]struct {
		archive []byte
		want    string
	}{
		"climbs":            {with("../boot.img", "x"), "leads out"},
		"climbs later":      {with("klibs/../../../etc/passwd", "x"), "leads out"},
		"absolute":          {with("/etc/passwd", "x"), "leads out"},
		"backslash":         {with(`..\boot.img`, "x"), "leads out"},
		"symbolic link":     {entry(tar.Header{Typeflag: tar.TypeSymlink, Name: "klibs", Linkname: "/etc"}), "is no file"},
		"hard link":         {entry(tar.Header{Typeflag: tar.TypeLink, Name: "boot.img", Linkname: "/etc/passwd"}), "is no file"},
		"device":            {entry(tar.Header{Typeflag: tar.TypeBlock, Name: "klibs/x"}), "is no file"},
		"pipe":              {entry(tar.Header{Typeflag: tar.TypeFifo, Name: "klibs/x"}), "is no file"},
		"twice":             {with("x/kernel.img", release["kernel.img"]), "kernel.img twice"},
		"too many":          {kerneltest.Tar(t, many), "no release has 1001 files"},
		"too large":         {huge, "no release has 1 files of"},
		"cut in a file":     {with("x", "")[:1500], "boot.img ends too soon"},
		"cut in a header":   {with("x", "")[:1700], "no whole tar archive"},
		"no archive":        {[]byte(strings.Repeat("text\n", 200)), "no whole tar archive"},
		"damaged gzip":      {[]byte("\x1f\x8b\x08 damaged"), "invalid"},
		"empty":             {nil, "kernel.img"},
		"no kernel":         {without("kernel.img"), "kernel.img"},
		"no boot image":     {without("boot.img"), "boot.img"},
		"no ELF":            {with("kernel.img", strings.Repeat("x", 100)), "kernel.img: it is no ELF file"},
		"arm64":             {with("kernel.img", string(arm.Bytes())), "only x86-64 is supported"},
		"no boot sector":    {with("boot.img", strings.Repeat("x", 1024)), "boot sector"},
		"half a sector":     {with("boot.img", release["boot.img"][:700]), "700 bytes"},
		"kernel too large":  {with("kernel.img", release["kernel.img"]+strings.Repeat("x", maxKernel)), "at most"},
		"no files but dirs": {kerneltest.Tar(t, map[string]string{"klibs/": ""}), "kernel.img"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			mustInstall(t, s, "old", "")
			_, err := s.Install(t.Context(), Request{From: archiveFile(t, filepath.Join(t.TempDir(), "x.tar"), tt.archive), Version: "new"})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
			if got := names(t, s); !slices.Equal(got, []string{"current", "old"}) || s.current() != "old" {
				t.Errorf("there are %q, the default is %q", got, s.current())
			}
		})
	}
}

// checksum is that of a tar header, in whose place are spaces meanwhile.
func checksum(header []byte) string {
	copy(header[148:156], "        ")
	var sum int
	for _, b := range header {
		sum += int(b)
	}
	return fmt.Sprintf("%06o\x00 ", sum)
}

func TestInstallRefusesArguments(t *testing.T) {
	dir := kerneltest.Write(t, t.TempDir(), kerneltest.Release(""))
	digest := strings.Repeat("0", 64)
	file := archiveFile(t, filepath.Join(t.TempDir(), "a.tar"), kerneltest.Tar(t, kerneltest.Release("")))
	for _, tt := range []struct {
		r    Request
		want error
	}{
		{Request{From: dir, Version: "../x"}, unikernel.ErrInvalid},
		{Request{From: dir, Version: "current"}, unikernel.ErrInvalid},
		{Request{From: dir, Version: ".x"}, unikernel.ErrInvalid},
		{Request{From: dir, Version: strings.Repeat("x", 65)}, unikernel.ErrInvalid},
		{Request{From: dir, SHA256: digest}, unikernel.ErrInvalid},
		{Request{From: file, SHA256: digest}, unikernel.ErrInvalid},
		{Request{From: file, SHA256: "00"}, unikernel.ErrInvalid},
		{Request{From: file, SHA256: strings.Repeat("x", 64)}, unikernel.ErrInvalid},
		{Request{From: "ftp://host/x.tar"}, unikernel.ErrInvalid},
		{Request{From: "/dev/null"}, unikernel.ErrInvalid},
		{Request{From: filepath.Join(dir, "none")}, unikernel.ErrNotFound},
		{Request{From: t.TempDir()}, unikernel.ErrNotFound},
	} {
		s := newStore(t)
		if _, err := s.Install(t.Context(), tt.r); !errors.Is(err, tt.want) {
			t.Errorf("%+v: %v, want %v", tt.r, err, tt.want)
		}
		if got := names(t, s); len(got) > 0 {
			t.Errorf("%+v: left %q", tt.r, got)
		}
	}
}

func TestInstallWithADigest(t *testing.T) {
	archive := kerneltest.Tar(t, kerneltest.Release(""))
	sum := sha256.Sum256(archive)
	want := hex.EncodeToString(sum[:])
	i, err := newStore(t).Install(t.Context(), Request{From: archiveFile(t, filepath.Join(t.TempDir(), "a.tar"), archive), Version: "v", SHA256: "sha256:" + want})
	if err != nil {
		t.Fatal(err)
	}
	if a := i.Archive; a.SHA256 != want || a.Size != int64(len(archive)) || a.Checked != checkedSHA256 {
		t.Errorf("%+v", a)
	}
}

func TestInstallASecondTime(t *testing.T) {
	s := newStore(t)
	first := mustInstall(t, s, "v", "")
	if again := mustInstall(t, s, "v", ""); !again.Installed.Equal(first.Installed) {
		t.Error("what was right has been replaced")
	}
	if err := os.WriteFile(filepath.Join(first.Dir, "kernel.img"), []byte("damaged"), 0o644); err != nil {
		t.Fatal(err)
	}
	mended := mustInstall(t, s, "v", "")
	if faults, err := s.Verify(t.Context(), "v"); len(faults) > 0 || err != nil || mended.Installed.Equal(first.Installed) {
		t.Errorf("what was damaged is %v, %v", faults, err)
	}
	_, err := s.Install(t.Context(), Request{From: kerneltest.Write(t, t.TempDir(), kerneltest.Release("another")), Version: "v"})
	if !errors.Is(err, ErrExists) || !strings.Contains(err.Error(), "uni kernel rm v") {
		t.Errorf("other contents: %v", err)
	}
	if got := names(t, s); !slices.Equal(got, []string{"current", "v"}) {
		t.Errorf("there are %q", got)
	}
}

func TestInstallRemovesWhatTheDeadLeft(t *testing.T) {
	s := newStore(t)
	mustInstall(t, s, "v", "")
	kerneltest.Write(t, filepath.Join(s.dir, ".install-1"+tempSuffix), map[string]string{"kernel.img": "half"})
	kerneltest.Write(t, s.dir, map[string]string{".archive-1" + tempSuffix: "half"})
	if err := os.Symlink("x", filepath.Join(s.dir, ".current"+tempSuffix)); err != nil {
		t.Fatal(err)
	}
	if list, err := s.List(); len(list) != 1 || err != nil {
		t.Errorf("half a release is listed: %+v, %v", list, err)
	}
	mustInstall(t, s, "w", "")
	if got := names(t, s); !slices.Equal(got, []string{"current", "v", "w"}) {
		t.Errorf("there are %q", got)
	}
}

func TestInstallWhereNothingCanBeWritten(t *testing.T) {
	from := kerneltest.Write(t, t.TempDir(), kerneltest.Release(""))
	file := filepath.Join(kerneltest.Write(t, t.TempDir(), map[string]string{"f": ""}), "f")
	if _, err := New(filepath.Join(file, "kernels", "nanos"), Options{}).Install(t.Context(), Request{From: from}); err == nil {
		t.Error("a file is no directory")
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	_, err := New(filepath.Join(dir, "kernels", "nanos"), Options{}).Install(t.Context(), Request{From: from})
	if os.Geteuid() != 0 && !errors.Is(err, os.ErrPermission) {
		t.Errorf("a directory without write permission: %v", err)
	}
}

func TestInstallThatIsInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := newStore(t)
	release := kerneltest.Release("")
	for _, from := range []string{
		kerneltest.Write(t, t.TempDir(), release),
		archiveFile(t, filepath.Join(t.TempDir(), "a.tar"), kerneltest.Tar(t, release)),
	} {
		if _, err := s.Install(ctx, Request{From: from}); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", from, err)
		}
		if got := names(t, s); len(got) > 0 {
			t.Errorf("%s: left %q", from, got)
		}
	}
}

// Many install, switch and remove at once; what is there is always whole.
func TestConcurrentUse(t *testing.T) {
	s := newStore(t)
	mustInstall(t, s, "base", "")
	from := kerneltest.Write(t, t.TempDir(), kerneltest.Release(""))
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			version := fmt.Sprintf("v%d", n%4) // two have the same
			if _, err := New(s.dir, Options{}).Install(t.Context(), Request{From: from, Version: version}); err != nil {
				t.Error(err)
			}
			if err := New(s.dir, Options{}).Use("base"); err != nil {
				t.Error(err)
			}
			if _, err := Examine(s.currentPath()); err != nil {
				t.Error(err)
			}
			if err := New(s.dir, Options{}).Remove(version, true); err != nil && !errors.Is(err, unikernel.ErrNotFound) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := names(t, s); !slices.Contains(got, "base") || slices.ContainsFunc(got, func(n string) bool { return strings.HasSuffix(n, tempSuffix) }) {
		t.Errorf("there are %q", got)
	}
}
