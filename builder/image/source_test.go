package image

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
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

	"archive/tar"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"containerd-shim-uni/unikernel"
)

// sample is an image with a bit of everything.
func sample(t testing.TB) v1.Image {
	owned := file("bin/app", strings.Repeat("program ", 3000))
	owned.Mode, owned.Uid, owned.Gid, owned.ModTime = 0o4755, 70000, 4_000_000_000, time.Unix(1_700_000_000, 123456789)
	owned.PAXRecords = map[string]string{
		"SCHILY.xattr.security.capability":    "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"SCHILY.xattr.user.a":                 "b",
		"SCHILY.xattr.trusted.overlay.opaque": "y",
	}
	owned.Format = tar.FormatPAX
	// As tar(1) writes them: with what the file has.
	again := func(name string) entry {
		h := hard(name, "bin/app")
		h.Mode, h.Uid, h.Gid, h.ModTime, h.Format = owned.Mode, owned.Uid, owned.Gid, owned.ModTime, tar.FormatPAX
		return h
	}
	return makeImage(t,
		tarFile(t, dir("bin"), owned, file("gone", "x"), file("etc/passwd", "root:x:0:0::/:\n"), again("bin/two"), link("lib", "usr/lib")),
		tarFile(t, file(".wh.gone", ""), file("lib/f", "through the link"), again("three")),
	)
}

const sampleList = "bin/ bin/app=…*3 bin/two=…*3 etc/ etc/passwd=root:x:0:0::/:\n lib>usr/lib three=…*3 usr/ usr/lib/ usr/lib/f=through the link"

func buildDisk(t testing.TB, source string, o Options) []byte {
	t.Helper()
	i, err := Open(t.Context(), source, o)
	must(t, err)
	defer i.Close()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	must(t, err)
	defer f.Close()
	_, err = Build(t.Context(), i, f)
	must(t, err)
	data, err := os.ReadFile(f.Name())
	must(t, err)
	return data
}

// goldenDisk is the SHA-256 of the sample's disk. It changes only when the
// bytes that are written for the same image do, which needs another rootFormat
// of the Store.
const goldenDisk = "586725e23608dfd459db35aa74ff4d2ebd4c30916fd05981bb7918ebfe759248"

// Every source of the same image gives the same disk.
func TestSources(t *testing.T) {
	img := sample(t)
	dir := makeLayout(t, mutate.IndexAddendum{Add: img})
	archive := makeTar(t, dir)
	data, err := os.ReadFile(archive)
	must(t, err)
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, err = z.Write(data)
	must(t, errors.Join(err, z.Close()))
	gz := filepath.Join(t.TempDir(), "layout.tgz")
	must(t, os.WriteFile(gz, packed.Bytes(), 0o600))
	zst := filepath.Join(t.TempDir(), "layout.tzst")
	must(t, os.WriteFile(zst, zstdOf(t, data), 0o600))
	docker := filepath.Join(t.TempDir(), "docker.tar")
	tag, err := name.NewTag("example.org/a/b:c")
	must(t, err)
	must(t, tarball.WriteToFile(docker, tag, img))

	plain := httptest.NewServer(registry.New(quiet))
	defer plain.Close()
	secure := httptest.NewTLSServer(withPassword(registry.New(quiet)))
	defer secure.Close()
	login := Options{Transport: secure.Client().Transport, Keychain: keychain{}}
	plainRef := push(t, plain.URL, img, Options{})
	secureRef := push(t, secure.URL, img, login)
	digest, err := img.Digest()
	must(t, err)

	for _, tt := range []struct {
		name, source string
		o            Options
	}{
		{"layout", dir, Options{}}, {"layout by prefix", "oci:" + dir, Options{}},
		{"layout by digest", "oci:" + dir + ":" + digest.String(), Options{}},
		{"archive", archive, Options{}}, {"archive by prefix", "oci-archive:" + archive, Options{}},
		{"gzip", gz, Options{}}, {"zstd", zst, Options{}},
		{"stdin", "-", Options{Stdin: bytes.NewReader(data)}},
		{"docker", docker, Options{}}, {"docker by name", "docker-archive:" + docker + ":example.org/a/b:c", Options{}},
		{"registry", plainRef, Options{}}, {"registry by prefix", "docker://" + plainRef, Options{}},
		{"registry by digest", plainRef + "@" + digest.String(), Options{PlainHTTP: true}},
		{"TLS and password", secureRef, login},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sum := sha256.Sum256(buildDisk(t, tt.source, tt.o))
			if got := hex.EncodeToString(sum[:]); got != goldenDisk {
				t.Errorf("disk %s, want %s", got, goldenDisk)
			}
		})
	}
	root, err := flatten(t, dir, Options{})
	must(t, err)
	if got := strings.ReplaceAll(list(t, root), strings.Repeat("program ", 3000), "…"); got != sampleList {
		t.Errorf("got  %s\nwant %s", got, sampleList)
	}
	app := root.Child("bin").Child("app")
	if app.Mode != 0o104755 || app.UID != 70000 || app.GID != 4_000_000_000 || app.Mtime != 1_700_000_000 || app.MtimeNsec != 123456789 {
		t.Errorf("bin/app is %+v", app)
	}
	if len(app.Xattrs) != 2 || app.Xattrs[0].Name != "security.capability" || len(app.Xattrs[0].Value) != 20 || app.Xattrs[1].Value != "b" {
		t.Errorf("attributes %q", app.Xattrs)
	}
	if _, err := Open(t.Context(), secureRef, Options{Transport: secure.Client().Transport}); !errors.Is(err, unikernel.ErrInvalid) || !strings.Contains(err.Error(), "log in") {
		t.Errorf("without a password: %v", err)
	}
}

func push(t testing.TB, url string, img v1.Image, o Options) string {
	t.Helper()
	_, host, _ := strings.Cut(url, "://")
	ref, err := ParseReference(host+"/some/app:v1", false)
	must(t, err)
	must(t, remote.Write(ref, img, remoteOptions(t.Context(), o)...))
	return host + "/some/app:v1"
}

var quiet = registry.Logger(log.New(io.Discard, "", 0))

// keychain has the password of withPassword.
type keychain struct{}

func (keychain) Resolve(authn.Resource) (authn.Authenticator, error) {
	return &authn.Basic{Username: "me", Password: "secret"}, nil
}

func withPassword(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "me" || password != "secret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			http.Error(w, "{}", http.StatusUnauthorized)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func platform(arch, variant string) v1.Descriptor {
	return v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch, Variant: variant}}
}

// forArch makes an image whose only file says what it is for.
func forArch(t testing.TB, arch, text string) v1.Image {
	t.Helper()
	img := makeImage(t, tarFile(t, file("f", text)))
	c, err := img.ConfigFile()
	must(t, err)
	c.Architecture = arch
	img, err = mutate.ConfigFile(img, c)
	must(t, err)
	return img
}

func TestPlatforms(t *testing.T) {
	named := func(name string) v1.Descriptor {
		return v1.Descriptor{Annotations: map[string]string{annotationRefName: name}}
	}
	attestation := mutate.IndexAddendum{Add: forArch(t, "unknown", ""), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"}}}
	amd := mutate.IndexAddendum{Add: forArch(t, "amd64", "amd"), Descriptor: platform("amd64", "")}
	v3 := mutate.IndexAddendum{Add: forArch(t, "amd64", "v3"), Descriptor: platform("amd64", "v3")}
	arm := mutate.IndexAddendum{Add: forArch(t, "arm64", "arm"), Descriptor: platform("arm64", "v8")}
	nested := mutate.IndexAddendum{Add: mutate.AppendManifests(empty.Index, arm, amd)}
	one := mutate.IndexAddendum{Add: forArch(t, "amd64", "one"), Descriptor: named("one")}
	two := mutate.IndexAddendum{Add: forArch(t, "amd64", "two"), Descriptor: named("two")}
	bare := mutate.IndexAddendum{Add: forArch(t, "arm64", "bare")}
	artefact := mutate.IndexAddendum{Add: mutate.ConfigMediaType(forArch(t, "amd64", "artefact"), "application/x-thing")}
	tests := []struct {
		name, platform, pick string
		images               []mutate.IndexAddendum
		want, err            string
	}{
		{"the right one", "", "", []mutate.IndexAddendum{attestation, arm, amd}, "amd", ""},
		{"another", "linux/arm64", "", []mutate.IndexAddendum{attestation, arm, amd}, "arm", ""},
		{"the plain variant", "", "", []mutate.IndexAddendum{v3, amd}, "amd", ""},
		{"a variant", "linux/amd64/v3", "", []mutate.IndexAddendum{amd, v3}, "v3", ""},
		{"nested", "", "", []mutate.IndexAddendum{nested}, "amd", ""},
		{"twice the same", "", "", []mutate.IndexAddendum{amd, amd}, "amd", ""},
		{"by name", "", "two", []mutate.IndexAddendum{one, two}, "two", ""},
		{"without a platform", "linux/arm64", "", []mutate.IndexAddendum{bare}, "bare", ""},
		{"beside an artefact", "", "", []mutate.IndexAddendum{artefact, amd}, "amd", ""},
		{"none", "", "", []mutate.IndexAddendum{attestation, arm}, "", "no image for linux/amd64 but for linux/arm64"},
		{"not by its configuration", "", "", []mutate.IndexAddendum{bare}, "", "no image for linux/amd64 but for linux/arm64"},
		{"several", "", "", []mutate.IndexAddendum{one, two}, "", "name one: one, two"},
		{"no such name", "", "three", []mutate.IndexAddendum{one, two}, "", `no image "three"`},
		{"empty", "", "", nil, "", "no image"},
		{"artefact", "", "", []mutate.IndexAddendum{artefact}, "", "no image"},
		{"wrong platform", "a/b/c/d/e", "", nil, "", "platform"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			source := "oci:" + makeLayout(t, tt.images...)
			if tt.pick != "" {
				source += ":" + tt.pick
			}
			root, err := flatten(t, source, Options{Platform: tt.platform})
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) || !errors.Is(err, unikernel.ErrNotFound) && !errors.Is(err, unikernel.ErrInvalid) {
					t.Errorf("error %v, want %q", err, tt.err)
				}
				return
			}
			must(t, err)
			if got := list(t, root); got != "f="+tt.want {
				t.Errorf("image %s, want %s", got, tt.want)
			}
		})
	}
}

// A blob that is not what its descriptor says is found, wherever it is.
func TestDamagedBlobs(t *testing.T) {
	layer := tarFile(t, file("f", strings.Repeat("0123456789", 5000)))
	flip := func(_ string, data []byte) []byte { data[len(data)/2] ^= 1; return data }
	tests := []struct {
		name   string
		layer  v1.Layer
		damage func(path string, data []byte) []byte
		is     error
	}{
		{"flipped bits", nil, flip, ErrDigest},
		{"cut off", nil, func(_ string, data []byte) []byte { return data[:len(data)-20] }, ErrDigest},
		{"longer", nil, func(_ string, data []byte) []byte { return append(data, 0) }, ErrDigest},
		{"empty", nil, func(string, []byte) []byte { return nil }, ErrDigest},
		{"truncated gzip with the right digest", static.NewLayer(gzipOf(t, layer)[:100], types.OCILayer), nil, unikernel.ErrInvalid},
		{"no tar with the right digest", static.NewLayer([]byte(strings.Repeat("no tar ", 1000)), types.OCIUncompressedLayer), nil, unikernel.ErrInvalid},
		{"cut off tar with the right digest", static.NewLayer(layer[:len(layer)/2], types.OCIUncompressedLayer), nil, unikernel.ErrInvalid},
		{"wrong diff ID", wrongDiffID{static.NewLayer(gzipOf(t, layer), types.OCILayer)}, nil, ErrDigest},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			img := makeImage(t, layer)
			if tt.layer != nil {
				var err error
				img, err = mutate.AppendLayers(makeImage(t), tt.layer)
				must(t, err)
			}
			dir := makeLayout(t, mutate.IndexAddendum{Add: img})
			ls, err := img.Layers()
			must(t, err)
			digest, err := ls[0].Digest()
			must(t, err)
			if tt.damage != nil {
				changeFiles(t, dir, func(path string, data []byte) []byte {
					if filepath.Base(path) == digest.Hex {
						return tt.damage(path, data)
					}
					return data
				})
			}
			_, err = flatten(t, dir, Options{TempDir: t.TempDir()})
			if !errors.Is(err, tt.is) || !strings.Contains(err.Error(), digest.Hex) {
				t.Errorf("error %v, want %v", err, tt.is)
			}
		})
	}
	for _, doc := range []string{"manifest", "config"} {
		t.Run(doc, func(t *testing.T) {
			img := makeImage(t, layer)
			hash, err := img.Digest()
			if doc == "config" {
				hash, err = img.ConfigName()
			}
			must(t, err)
			dir := makeLayout(t, mutate.IndexAddendum{Add: img})
			changeFiles(t, dir, func(path string, data []byte) []byte {
				if filepath.Base(path) == hash.Hex {
					return bytes.Replace(data, []byte("sha256"), []byte("sha255"), 1)
				}
				return data
			})
			if _, err := Open(t.Context(), dir, Options{}); !errors.Is(err, ErrDigest) {
				t.Errorf("error %v, want ErrDigest", err)
			}
		})
	}
}

// wrongDiffID is a layer that lies about its uncompressed contents.
type wrongDiffID struct{ v1.Layer }

func (wrongDiffID) DiffID() (v1.Hash, error) {
	return v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("0", 64)}, nil
}

func gzipOf(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write(data)
	must(t, errors.Join(err, w.Close()))
	return b.Bytes()
}

// Links in a layout do not lead out of it.
func TestLayoutLinks(t *testing.T) {
	dir := makeLayout(t, mutate.IndexAddendum{Add: makeImage(t, tarFile(t, file("f", "1")))})
	outside := filepath.Join(t.TempDir(), "index.json")
	must(t, os.Rename(filepath.Join(dir, "index.json"), outside))
	must(t, os.Symlink(outside, filepath.Join(dir, "index.json")))
	if _, err := Open(t.Context(), dir, Options{}); err == nil {
		t.Error("a link out of the layout was followed")
	}
}

func TestOpenErrors(t *testing.T) {
	junk := filepath.Join(t.TempDir(), "junk")
	must(t, os.WriteFile(junk, []byte(strings.Repeat("x", 5000)), 0o600))
	server := httptest.NewServer(registry.New(quiet))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	for source, want := range map[string]error{
		filepath.Join(t.TempDir(), "absent"): unikernel.ErrNotFound, "./no": unikernel.ErrNotFound, "oci:/no:x": unikernel.ErrNotFound,
		junk: unikernel.ErrInvalid, t.TempDir(): unikernel.ErrInvalid, "UPPER/case": unikernel.ErrInvalid, "": unikernel.ErrInvalid,
		"localhost:1/x": ErrUnavailable, host + "/none:v1": unikernel.ErrNotFound, "-": unikernel.ErrInvalid,
	} {
		if _, err := Open(t.Context(), source, Options{}); !errors.Is(err, want) {
			t.Errorf("%q: error %v, want %v", source, err, want)
		}
	}
}
