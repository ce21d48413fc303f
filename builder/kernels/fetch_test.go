package kernels

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"containerd-shim-uni/builder/kernels/kerneltest"
	"containerd-shim-uni/unikernel"
)

const archiveName = "/9.8.7/nanos-release-linux-9.8.7.tar.gz"

// serve publishes a release as its authors do.
func serve(t *testing.T, change func(pages map[string]http.HandlerFunc)) *Store {
	t.Helper()
	archive := kerneltest.Tar(t, kerneltest.Release(""))
	sum := md5.Sum(archive)
	pages := map[string]http.HandlerFunc{
		"/latest.txt":                          text("9.8.7\n"),
		archiveName:                            text(string(archive)),
		"/9.8.7/nanos-release-linux-9.8.7.md5": text(hex.EncodeToString(sum[:]) + "\n"),
	}
	if change != nil {
		change(pages)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		page := pages[r.URL.Path]
		if page == nil {
			page = http.NotFound
		}
		page(w, r)
	}))
	t.Cleanup(server.Close)
	s := newStore(t)
	return New(s.dir, Options{Base: server.URL + "/", Client: server.Client(), Log: t.Logf})
}

func text(s string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(s)))
		fmt.Fprint(w, s)
	}
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

func TestInstallOfficial(t *testing.T) {
	for _, version := range []string{"", "9.8.7"} {
		s := serve(t, nil)
		i, err := s.Install(t.Context(), Request{Version: version})
		if err != nil {
			t.Fatal(err)
		}
		if i.Version != "9.8.7" || i.Source != s.opts.Base+archiveName[1:] || i.Archive.Checked != checkedMD5 || !i.Default {
			t.Errorf("%+v", i)
		}
		if done, total := s.opts.Progress.Bytes(); done != i.Archive.Size || total != done {
			t.Errorf("progress is %d of %d", done, total)
		}
	}
}

func TestInstallWithoutAPublishedDigest(t *testing.T) {
	s := serve(t, func(p map[string]http.HandlerFunc) { delete(p, "/9.8.7/nanos-release-linux-9.8.7.md5") })
	i, err := s.Install(t.Context(), Request{})
	if err != nil || i.Archive.Checked != "" {
		t.Errorf("%+v, %v", i, err)
	}
}

func TestInstallFromURL(t *testing.T) {
	s := serve(t, nil)
	u, err := url.Parse(s.opts.Base)
	if err != nil {
		t.Fatal(err)
	}
	u.Path, u.User, u.RawQuery = archiveName, url.UserPassword("me", "secret"), "token=secret"
	i, err := s.Install(t.Context(), Request{From: u.String()})
	if err != nil || i.Version != "9.8.7" || i.Source != s.opts.Base+archiveName[1:] || i.Archive.Checked != "" {
		t.Errorf("%+v, %v", i, err)
	}
}

func TestFetchFailures(t *testing.T) {
	cutShort := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100000")
		fmt.Fprint(w, "only this")
	}
	for name, tt := range map[string]struct {
		request Request
		page    string
		answer  http.HandlerFunc
		is      error
		want    string
	}{
		"no such version":     {Request{Version: "9.8.6"}, "", nil, unikernel.ErrNotFound, "9.8.6.tar.gz: the server says 404"},
		"too old":             {Request{Version: "0.1.46"}, "", nil, unikernel.ErrInvalid, "since 0.1.47"},
		"no latest":           {Request{}, "/latest.txt", status(403), unikernel.ErrNotFound, "latest.txt"},
		"rubbish for latest":  {Request{}, "/latest.txt", text("<html> go away"), unikernel.ErrInvalid, "cannot be a version"},
		"server in trouble":   {Request{}, archiveName, status(503), unikernel.ErrUnavailable, "503"},
		"wrong MD5":           {Request{}, "/9.8.7/nanos-release-linux-9.8.7.md5", text(strings.Repeat("0", 32)), unikernel.ErrInvalid, "arrived damaged"},
		"digest unavailable":  {Request{}, "/9.8.7/nanos-release-linux-9.8.7.md5", status(500), unikernel.ErrUnavailable, "digest of the release"},
		"wrong SHA-256":       {Request{SHA256: strings.Repeat("0", 64)}, "", nil, unikernel.ErrInvalid, "has the SHA-256"},
		"interrupted":         {Request{}, archiveName, cutShort, io.ErrUnexpectedEOF, "--from FILE"},
		"interrupted, latest": {Request{}, "/latest.txt", cutShort, io.ErrUnexpectedEOF, "latest.txt has the latest version"},
		"too large": {Request{}, archiveName, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(releaseLimits.archive+1))
		}, unikernel.ErrInvalid, "no release has more"},
		"not an archive": {Request{}, archiveName, text("<html>"), unikernel.ErrInvalid, ""},
	} {
		s := serve(t, func(p map[string]http.HandlerFunc) {
			if tt.page != "" {
				p[tt.page] = tt.answer
			}
		})
		_, err := s.Install(t.Context(), tt.request)
		if !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %v with %q", name, err, tt.is, tt.want)
		}
		if got := names(t, s); len(got) > 0 {
			t.Errorf("%s: left %q", name, got)
		}
	}
}

// An operator who loses patience leaves nothing behind.
func TestFetchIsCancelled(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	impatient := errors.New("interrupted")
	defer cancel(nil)
	s := serve(t, func(p map[string]http.HandlerFunc) {
		p[archiveName] = func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "100000")
			fmt.Fprint(w, "the beginning")
			w.(http.Flusher).Flush()
			cancel(impatient)
			<-r.Context().Done()
		}
	})
	_, err := s.Install(ctx, Request{})
	if !errors.Is(err, impatient) || strings.Contains(err.Error(), "--from") {
		t.Errorf("%v", err)
	}
	if got := names(t, s); len(got) > 0 {
		t.Errorf("left %q", got)
	}
}

func TestOffline(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	base := server.URL + "/"
	server.Close()
	for version, want := range map[string]string{"": "VERSION/nanos-release-linux-VERSION.tar.gz", "0.1.55": "0.1.55/nanos-release-linux-0.1.55.tar.gz"} {
		s := New(filepath.Join(t.TempDir(), "nanos"), Options{Base: base})
		_, err := s.Install(t.Context(), Request{Version: version})
		if err == nil || !strings.Contains(err.Error(), base+want) || !strings.Contains(err.Error(), "uni kernel install nanos --from FILE") {
			t.Errorf("%v does not say how to bring %s", err, want)
		}
	}
}

func TestRedirections(t *testing.T) {
	request := func(u string) *http.Request { return httptest.NewRequest(http.MethodGet, u, nil) }
	check := newClient().CheckRedirect
	if err := check(request("https://b/"), []*http.Request{request("https://a/")}); err != nil {
		t.Error(err)
	}
	if err := check(request("http://b/"), []*http.Request{request("https://a/")}); err == nil {
		t.Error("from https to http")
	}
	if err := check(request("https://b/"), make([]*http.Request, 10)); err == nil {
		t.Error("without end")
	}
}

func TestOlder(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"0.1.46", "0.1.47", true}, {"0.1.47", "0.1.47", false}, {"0.1.100", "0.1.47", false}, {"0.1", "0.1.47", true},
		{"1.0", "0.1.47", false}, {"nightly", "0.1.47", false}, {"0.1.47.1", "0.1.47", false},
	} {
		if got := older(tt.a, tt.b); got != tt.want {
			t.Errorf("%s older than %s: %t", tt.a, tt.b, got)
		}
	}
}
