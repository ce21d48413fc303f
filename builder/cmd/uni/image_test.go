package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"containerd-shim-uni/builder/image"
	"containerd-shim-uni/unikernel"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// testLayout writes an image whose program is a script of /bin/app, for an
// architecture.
func testLayout(t *testing.T, architecture string) string {
	t.Helper()
	// The header of a static program for x86-64, with nothing behind it.
	program := make([]byte, 64)
	copy(program, elf.ELFMAG+string([]byte{byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1}))
	program[16], program[18], program[20] = byte(elf.ET_EXEC), byte(elf.EM_X86_64), 1
	return writeLayout(t, architecture, map[string]string{"bin/app": string(program), "run": "#!/bin/app\n"},
		v1.Config{Entrypoint: []string{"/run"}, Cmd: []string{"a b"}, Env: []string{"A=1"}, WorkingDir: "/tmp", User: "5", Labels: map[string]string{"a": "b"}})
}

// writeLayout writes an image of executable files and some others.
func writeLayout(t *testing.T, architecture string, files map[string]string, config v1.Config) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, body := range files {
		must(t, w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(body)), ModTime: time.Unix(1, 0)}))
		_, err := io.WriteString(w, body)
		must(t, err)
	}
	must(t, w.WriteHeader(&tar.Header{Name: "odd\nname", Typeflag: tar.TypeSymlink, Linkname: "run"}))
	must(t, w.WriteHeader(&tar.Header{Name: "null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3}))
	must(t, w.WriteHeader(&tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}))
	must(t, w.Close())
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	must(t, err)
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{
		OS: "linux", Architecture: architecture, RootFS: v1.RootFS{Type: "layers"},
		Config: config,
	})
	must(t, err)
	img, err = mutate.AppendLayers(img, l)
	must(t, err)
	dir := filepath.Join(t.TempDir(), "layout")
	_, err = layout.Write(dir, mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: img}))
	must(t, err)
	return dir
}

func TestImageCommands(t *testing.T) {
	source, dir := testLayout(t, "amd64"), t.TempDir()
	raw, packed := filepath.Join(dir, "disk.img"), filepath.Join(dir, "disk.qcow2")
	for path, format := range map[string]string{raw: "raw", packed: "qcow2"} {
		out, errs, err := uni(t, "build", source, "-o", path, "--format", format)
		if err != nil || errs != "" || !strings.Contains(out, path+": "+format+", ") {
			t.Fatalf("build: %q, %q, %v", out, errs, err)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("build left %v, %v", entries, err)
	}
	for _, what := range []string{source, raw, packed} {
		checkInspect(t, what)
		out, _, err := uni(t, "check-image", what)
		if err != nil || !strings.Contains(out, "OK  script     /run is run by /bin/app") {
			t.Errorf("check-image %s: %q, %v", what, out, err)
		}
		out, _, err = uni(t, "check-image", "--guest", "nanos", what, "-o", "json", "--", "-x")
		var findings []finding
		if !errors.Is(err, errSilent) || json.Unmarshal([]byte(out), &findings) != nil || len(findings) < 3 ||
			findings[1].Level != levelWarn || findings[2].Level != levelFail || findings[2].Check != "script" {
			t.Errorf("check-image for nanos: %q, %v", out, err)
		}
	}
}

func checkInspect(t *testing.T, what string) {
	t.Helper()
	out, _, err := uni(t, "inspect", "-l", "-o", "json", what)
	var i inspection
	must(t, errors.Join(err, json.Unmarshal([]byte(out), &i)))
	if i.Entrypoint[0] != "/run" || i.Cmd[0] != "a b" || i.Env[0] != "A=1" || i.WorkingDir != "/tmp" || i.User != "5" || i.Architecture != "amd64" {
		t.Errorf("%s: %+v", what, i)
	}
	c := i.Counts
	if c.Files != 2 || c.Directories != 3 || c.Links != 1 || c.Others != 1 || len(i.Files) != 7 || i.Files[0].Path != "/" {
		t.Errorf("%s: counts %+v, files %+v", what, c, i.Files)
	}
	out, _, err = uni(t, "inspect", "-l", what)
	for _, want := range []string{"entrypoint:  [\"/run\"]", "crw-rw-rw-  0:0  1:3 ", "drwxrwxrwt", `"/odd\nname" -> run`, "-rwxr-xr-x"} {
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("%s: %v, no %q in\n%s", what, err, want, out)
		}
	}
}

// kernelLayout writes an image that says that it boots a kernel, which is multiboot's
// header and no more: that says where the file is loaded.
func kernelLayout(t *testing.T, says string) string {
	t.Helper()
	kernel := make([]byte, 64)
	for i, v := range []uint32{0x1BADB002, 0x10000, 0xE4524FFE - 0x10000, 0x100000, 0x100000, 0, 0, 0x100020} {
		binary.LittleEndian.PutUint32(kernel[4*i:], v)
	}
	return writeLayout(t, "amd64", map[string]string{"boot/kernel": string(kernel) + "OSv v1", "uni.json": says},
		v1.Config{Cmd: []string{"/boot/kernel", "-v"}})
}

// TestCarriedKernel: what says what boots is shown and judged for the guest that boots it.
func TestCarriedKernel(t *testing.T) {
	good := kernelLayout(t, `{"kernel": "/boot/kernel", "cmdline": "x -- {args}"}`)
	out, _, err := uni(t, "inspect", good)
	if err != nil || !strings.Contains(out, "/boot/kernel multiboot, OSv, by /uni.json\n") || !strings.Contains(out, "command line:  x -- {args}") {
		t.Errorf("inspect: %q, %v", out, err)
	}
	out, _, err = uni(t, "inspect", "-o", "json", good)
	var i inspection
	must(t, errors.Join(err, json.Unmarshal([]byte(out), &i)))
	if want := (boots{Source: "/uni.json", Kernel: "/boot/kernel", Kind: "multiboot, OSv", Cmdline: "x -- {args}"}); i.Boots == nil || *i.Boots != want {
		t.Errorf("inspect: %+v", i.Boots)
	}
	for _, args := range [][]string{{}, {"--guest", "image"}} {
		out, _, err := uni(t, append([]string{"check-image", good}, args...)...)
		if err != nil || !strings.Contains(out, "/boot/kernel, by /uni.json: multiboot, OSv") || !strings.Contains(out, "x -- /boot/kernel -v") {
			t.Errorf("check-image %q: %q, %v", args, out, err)
		}
	}
	for _, tt := range []struct{ says, want string }{
		{`{"kernel": "/other"}`, "/other: no such file"},
		{`{"kernel": "/boot/kernel", "initrd": "/none"}`, "there is no file /none"},
		{`{"kernel": "/uni.json"}`, "no kernel that is known"},
		{`{"kernel": "/boot/kernel", "cmdline": "{x}"}`, "no placeholder {x}"},
		{`{`, "/uni.json"},
	} {
		if out, _, err := uni(t, "check-image", kernelLayout(t, tt.says)); !errors.Is(err, errSilent) || !strings.Contains(out, "FAIL") || !strings.Contains(out, tt.want) {
			t.Errorf("%s: %q, %v", tt.says, out, err)
		}
	}
	if out, _, err := uni(t, "check-image", "--guest", "image", testLayout(t, "amd64")); !errors.Is(err, errSilent) || !strings.Contains(out, "/uni.json") {
		t.Errorf("an ordinary image: %q, %v", out, err)
	}
	if out, _, err := uni(t, "check-image", "--guest", "linux", good); !errors.Is(err, errSilent) || !strings.Contains(out, "io.containerd.uni.kernel=/boot/kernel") {
		t.Errorf("for linux: %q, %v", out, err)
	}
	if _, _, err := uni(t, "build", good, "-o", filepath.Join(t.TempDir(), "x"), "--guest", "image"); err == nil || !strings.Contains(err.Error(), "nothing to build") {
		t.Errorf("build: %v", err)
	}
}

func TestCheckImageFails(t *testing.T) {
	out, _, err := uni(t, "check-image", testLayout(t, "arm64"))
	if !errors.Is(err, errSilent) || !strings.Contains(out, "FAIL  platform") || !strings.Contains(out, "linux/arm64") {
		t.Errorf("%q, %v", out, err)
	}
	source := testLayout(t, "amd64")
	if out, _, err := uni(t, "check-image", "--platform", "linux/arm64", source); !errors.Is(err, errSilent) || !strings.Contains(out, "FAIL  platform") {
		t.Errorf("%q, %v", out, err)
	}
}

func TestImageCommandErrors(t *testing.T) {
	source := testLayout(t, "amd64")
	out, absent := filepath.Join(t.TempDir(), "out"), filepath.Join(t.TempDir(), "absent")
	for _, args := range [][]string{
		{"build", source}, {"build", "-o", out}, {"build", source, "-o", out, "--guest", "nanos"}, {"build", source, "-o", out, "--format", "vmdk"},
		{"build", absent, "-o", out}, {"build", source, "-o", filepath.Join(out, "no/dir")}, {"build", source, "-o", out, "--platform", "linux/arm64"},
		{"inspect", absent}, {"inspect", source, "-o", "yaml"}, {"check-image", source, "--guest", "x"},
		{"push", source, "localhost:1/x"}, {"push", absent, "localhost:1/x"}, {"pull", "localhost:1/x", "-o", out}, {"pull", "UPPER", "-o", out},
	} {
		if _, _, err := uni(t, args...); err == nil || errors.Is(err, errSilent) {
			t.Errorf("%q: error %v, want one with a text", args, err)
		}
	}
	if entries, err := os.ReadDir(filepath.Dir(out)); err != nil || len(entries) > 0 {
		t.Errorf("errors left %v, %v", entries, err)
	}
}

func TestPushAndPull(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	source, dir := testLayout(t, "amd64"), t.TempDir()
	for _, format := range []string{"raw", "qcow2"} {
		disk, back := filepath.Join(dir, format), filepath.Join(dir, format+".back")
		if _, _, err := uni(t, "build", source, "-o", disk, "--format", format); err != nil {
			t.Fatal(err)
		}
		first, _, err := uni(t, "push", disk, host+"/disks/app:"+format)
		must(t, err)
		if again, _, err := uni(t, "push", disk, host+"/disks/app:"+format); err != nil || again != first || !strings.Contains(first, "sha256:") {
			t.Errorf("pushed again: %q, %q, %v", first, again, err)
		}
		out, _, err := uni(t, "pull", host+"/disks/app:"+format, "-o", back)
		if err != nil || !strings.Contains(out, ": "+format+", ") {
			t.Fatalf("pull: %q, %v", out, err)
		}
		want, err := os.ReadFile(disk)
		must(t, err)
		if got, err := os.ReadFile(back); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: another disk came back, %v", format, err)
		}
	}
	checkWire(t, server.URL)
	checkInspect(t, host+"/disks/app:raw")
	checkInspect(t, host+"/disks/app:qcow2")
	if out, _, err := uni(t, "check-image", host+"/disks/app:raw"); err != nil || !strings.Contains(out, "/run is run by /bin/app") {
		t.Errorf("check-image: %q, %v", out, err)
	}
	again := filepath.Join(dir, "again")
	if _, _, err := uni(t, "build", host+"/disks/app:raw", "-o", again); !errors.Is(err, unikernel.ErrInvalid) || !strings.Contains(err.Error(), "uni pull") {
		t.Errorf("build of a disk: %v", err)
	}
	if _, err := os.Stat(again); err == nil {
		t.Error("a disk of a disk was made")
	}
}

// checkWire reads the artefact as any client of a registry would.
func checkWire(t *testing.T, url string) {
	t.Helper()
	response, err := get(t, url+"/v2/disks/app/manifests/raw")
	must(t, err)
	var m struct {
		MediaType, ArtifactType string
		Config                  v1.Descriptor
		Layers                  []v1.Descriptor
	}
	must(t, json.Unmarshal(response, &m))
	if m.MediaType != "application/vnd.oci.image.manifest.v1+json" || m.ArtifactType != image.ArtifactType ||
		m.Config.MediaType != "application/vnd.oci.image.config.v1+json" || len(m.Layers) != 1 || m.Layers[0].MediaType != "application/vnd.oci.image.layer.v1.tar+zstd" {
		t.Errorf("manifest %s", response)
	}
	response, err = get(t, url+"/v2/disks/app/blobs/"+m.Config.Digest.String())
	must(t, err)
	var c v1.ConfigFile
	must(t, json.Unmarshal(response, &c))
	if c.OS != "linux" || c.Architecture != "amd64" || c.Config.Entrypoint[0] != "/run" || c.Config.Cmd[0] != "a b" || c.Config.Env[0] != "A=1" ||
		c.Config.WorkingDir != "/tmp" || c.Config.User != "5" || c.Config.Labels["a"] != "b" || len(c.RootFS.DiffIDs) != 1 || c.RootFS.Type != "layers" {
		t.Errorf("configuration %s", response)
	}
}

func get(t *testing.T, url string) ([]byte, error) {
	t.Helper()
	r, err := http.Get(url)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	return io.ReadAll(r.Body)
}
