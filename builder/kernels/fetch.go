package kernels

import (
	"cmp"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"containerd-shim-uni/unikernel"
)

// OfficialBase is where the authors of Nanos publish releases: releaseBaseURL in
// lepton/const.go of github.com/nanovms/ops. Below it are "latest.txt" with the
// latest version, and VERSION/nanos-release-linux-VERSION.tar.gz with its MD5
// beside it.
const OfficialBase = "https://storage.googleapis.com/nanos/release/"

// firstRelease is the first one that reads version 5 of the file system, see
// its src/fs/tfs_internal.h.
const firstRelease = "0.1.47"

// Limits of waiting. A slow but steady source is waited for.
const (
	headerTimeout = 30 * time.Second
	stallTimeout  = 60 * time.Second
)

// maxText is more than a version or a digest takes, in bytes.
const maxText = 4096

// newClient returns one that never goes from https to http.
func newClient() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone() // honours the proxies of the environment
	transport.ResponseHeaderTimeout = headerTimeout
	transport.DisableCompression = true // the digest is that of the bytes as they are stored
	return &http.Client{Transport: transport, CheckRedirect: func(to *http.Request, via []*http.Request) error {
		if len(via) >= 10 {
			return errors.New("too many redirections")
		}
		if via[0].URL.Scheme == "https" && to.URL.Scheme != "https" {
			return fmt.Errorf("redirected from https to %s", to.URL.Scheme)
		}
		return nil
	}}
}

// openOfficial fetches a release of the authors, the latest if version is empty.
func (s *Store) openOfficial(ctx context.Context, version, want string) (_ *release, err error) {
	defer func() { err = s.adviseOffline(ctx, err, version) }()
	if version == "" {
		if version, err = s.fetchText(ctx, s.opts.Base+"latest.txt"); err != nil {
			return nil, fmt.Errorf("look up the latest release: %w", err)
		}
		if err := checkVersion(version); err != nil {
			return nil, fmt.Errorf("%slatest.txt: %w", s.opts.Base, err)
		}
	}
	if older(version, firstRelease) {
		return nil, invalid("release %s cannot read version 5 of the file system, as those since %s do", version, firstRelease)
	}
	p, err := s.fetch(ctx, s.archiveURL(version))
	if err != nil {
		return nil, err
	}
	sum, err := s.fetchText(ctx, strings.TrimSuffix(s.archiveURL(version), ".tar.gz")+".md5")
	if err != nil && !errors.Is(err, unikernel.ErrNotFound) {
		return nil, errors.Join(fmt.Errorf("fetch the digest of the release: %w", err), p.file.Close())
	}
	if err != nil {
		s.opts.Log("release %s has no digest published beside it", version)
	}
	return p.release(s.archiveURL(version), path.Base(s.archiveURL(version)), want, sum)
}

func (s *Store) archiveURL(version string) string {
	return s.opts.Base + version + "/nanos-release-linux-" + version + ".tar.gz"
}

// adviseOffline adds how to do without a network to its errors.
func (s *Store) adviseOffline(ctx context.Context, err error, version string) error {
	var e *url.Error
	if !errors.As(err, &e) || ctx.Err() != nil {
		return err
	}
	file := s.archiveURL(cmp.Or(version, "VERSION"))
	if version == "" {
		file += " (" + s.opts.Base + "latest.txt has the latest version)"
	}
	return fmt.Errorf("%w\nwithout a way to the network, bring %s here by other means and run: uni kernel install nanos --from FILE\nbehind a proxy, set $HTTPS_PROXY", err, file)
}

// openURL fetches an archive from anywhere.
func (s *Store) openURL(ctx context.Context, from, want string) (*release, error) {
	u, err := url.Parse(from)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", unikernel.ErrInvalid, err)
	}
	if u.Scheme == "http" && want == "" {
		s.opts.Log("what arrives by plain http can be anybody's: give its SHA-256 to be sure")
	}
	p, err := s.fetch(ctx, from)
	if err != nil {
		return nil, err
	}
	// Both may hold a secret, and the manifest can be read by everybody.
	u.User, u.RawQuery = nil, ""
	return p.release(u.String(), path.Base(u.Path), want, "")
}

// parcel is an archive that arrived, in a file without a name.
type parcel struct {
	file        *os.File
	size        int64
	sha256, md5 string
}

// release makes a release of an archive if it has the digests that are wanted,
// where they are not empty. It closes the file otherwise.
func (p *parcel) release(source, name, wantSHA256, wantMD5 string) (*release, error) {
	a := &Archive{Size: p.size, SHA256: p.sha256}
	var err error
	switch {
	case wantSHA256 != "" && wantSHA256 != p.sha256:
		err = invalid("%s has the SHA-256 %s, not %s", source, p.sha256, wantSHA256)
	case wantMD5 != "" && !strings.EqualFold(wantMD5, p.md5):
		err = invalid("%s arrived damaged: it has the MD5 %s, not %.100q as published", source, p.md5, wantMD5)
	case wantSHA256 != "":
		a.Checked = checkedSHA256
	case wantMD5 != "":
		a.Checked = checkedMD5
	}
	if err != nil {
		return nil, errors.Join(err, p.file.Close())
	}
	return &release{source: source, version: nameVersion(name), archive: a, close: p.file.Close,
		walk: func(ctx context.Context, visit visitFunc) error {
			return walkTar(ctx, io.NewSectionReader(p.file, 0, p.size), releaseLimits, visit)
		}}, nil
}

// fetch gets an archive.
func (s *Store) fetch(ctx context.Context, from string) (*parcel, error) {
	body, size, err := s.get(ctx, from)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	s.opts.Log("fetching %s", body.name)
	return s.spool(body, size)
}

// fetchText gets a short text, without white space around it.
func (s *Store) fetchText(ctx context.Context, from string) (string, error) {
	body, _, err := s.get(ctx, from)
	if err != nil {
		return "", err
	}
	defer body.Close()
	text, err := io.ReadAll(io.LimitReader(body, maxText))
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(text)), nil
}

// get begins to fetch; size is -1 if it is not known.
func (s *Store) get(ctx context.Context, from string) (body *stallReader, size int64, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer func() {
		if err != nil {
			cancel(nil)
		}
	}()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", unikernel.ErrInvalid, err)
	}
	r, err := s.opts.Client.Do(q)
	if err != nil {
		return nil, 0, err // names the URL
	}
	name := q.URL.Redacted()
	switch r.StatusCode {
	case http.StatusOK:
		return newStallReader(ctx, cancel, name, r.Body), r.ContentLength, nil
	case http.StatusNotFound, http.StatusForbidden: // Google's storage answers either for what is not there
		err = fmt.Errorf("%w: %s: the server says %s", unikernel.ErrNotFound, name, r.Status)
	default:
		err = fmt.Errorf("%w: %s: the server says %s", unikernel.ErrUnavailable, name, r.Status)
	}
	return nil, 0, errors.Join(err, r.Body.Close())
}

// stallReader ends with an error when nothing arrives for stallTimeout. Its
// errors are of type *url.Error, as those before the body begins.
type stallReader struct {
	io.ReadCloser
	name   string
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
}

func newStallReader(ctx context.Context, cancel context.CancelCauseFunc, name string, body io.ReadCloser) *stallReader {
	stalled := fmt.Errorf("nothing arrived for %v", stallTimeout)
	return &stallReader{body, name, ctx, cancel, time.AfterFunc(stallTimeout, func() { cancel(stalled) })}
}

func (r *stallReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.timer.Reset(stallTimeout)
	if err != nil && !errors.Is(err, io.EOF) {
		err = &url.Error{Op: "Get", URL: r.name, Err: cmp.Or(context.Cause(r.ctx), err)}
	}
	return n, err
}

func (r *stallReader) Close() error {
	r.timer.Stop()
	defer r.cancel(nil)
	return r.ReadCloser.Close()
}

// spool keeps what r gives, which should be size bytes if that is not negative,
// and hashes it.
func (s *Store) spool(r io.Reader, size int64) (_ *parcel, err error) {
	if size > releaseLimits.archive {
		return nil, invalid("%d bytes: no release has more than %d", size, releaseLimits.archive)
	}
	s.opts.Progress.total.Store(max(size, 0))
	f, err := os.CreateTemp(s.dir, ".archive-*"+tempSuffix)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	// Another process that cleans up may have been quicker.
	if err := os.Remove(f.Name()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	sums := [2]hash.Hash{sha256.New(), md5.New()}
	n, err := io.Copy(io.MultiWriter(f, sums[0], sums[1], s.opts.Progress), io.LimitReader(r, releaseLimits.archive+1))
	switch {
	case err != nil:
		return nil, err
	case n > releaseLimits.archive:
		return nil, invalid("no release has more than %d bytes", releaseLimits.archive)
	case size >= 0 && n != size:
		return nil, fmt.Errorf("%d of %d bytes: %w", n, size, io.ErrUnexpectedEOF)
	}
	return &parcel{file: f, size: n, sha256: hexSum(sums[0]), md5: hexSum(sums[1])}, nil
}

// older compares two versions of numbers and dots; others are not older.
func older(version, than string) bool {
	a, b := strings.Split(version, "."), strings.Split(than, ".")
	for i := range min(len(a), len(b)) {
		x, xerr := strconv.Atoi(a[i])
		y, yerr := strconv.Atoi(b[i])
		if xerr != nil || yerr != nil {
			return false
		}
		if x != y {
			return x < y
		}
	}
	return len(a) < len(b)
}
