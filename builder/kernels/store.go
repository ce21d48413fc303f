package kernels

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"

	"containerd-shim-uni/builder/flock"
	"containerd-shim-uni/config"
	"containerd-shim-uni/unikernel"
)

// ErrExists is for a version that is installed with other contents, ErrDefault
// for removing the default one.
var (
	ErrExists  = errors.New("installed already, with other contents")
	ErrDefault = errors.New("is the default")
)

const tempSuffix = ".tmp"

// Options configure a Store.
type Options struct {
	// Client fetches releases; nil is one that honours $HTTPS_PROXY, $HTTP_PROXY
	// and $NO_PROXY.
	Client *http.Client
	// Base is the URL below which releases are, ending in a slash; empty is
	// OfficialBase.
	Base string
	// Progress, if not nil, counts what arrives.
	Progress *Progress
	// Log takes what an operator should know although nothing failed; nil
	// discards it.
	Log func(format string, args ...any)
}

// Progress counts the bytes of an archive. Its methods may be called at any
// time.
type Progress struct{ done, total atomic.Int64 }

// Bytes returns how many bytes arrived, and how many will; 0 if that is not
// known.
func (p *Progress) Bytes() (done, total int64) { return p.done.Load(), p.total.Load() }

// Write counts what was written.
func (p *Progress) Write(b []byte) (int, error) {
	p.done.Add(int64(len(b)))
	return len(b), nil
}

// Store is the releases below one directory. Its methods may be called
// concurrently, by any number of processes.
type Store struct {
	dir  string
	opts Options
}

// New returns the Store of a directory, which need not exist.
func New(dir string, o Options) *Store {
	if o.Client == nil {
		o.Client = newClient()
	}
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	if o.Progress == nil {
		o.Progress = &Progress{}
	}
	o.Base = cmp.Or(o.Base, OfficialBase)
	return &Store{dir: dir, opts: o}
}

// Installed is a version that is there.
type Installed struct {
	Manifest
	// Dir holds the files.
	Dir string
	// Default says that containers boot it unless configured otherwise.
	Default bool
	// Err says why there is no manifest; all of it but the version is then empty.
	Err error
}

// List returns what is installed, newest first; nothing if there is no
// directory.
func (s *Store) List() ([]Installed, error) {
	entries, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list kernels: %w", err)
	}
	var list []Installed
	for _, e := range entries {
		if e.IsDir() && checkVersion(e.Name()) == nil {
			list = append(list, s.installed(e.Name()))
		}
	}
	slices.SortStableFunc(list, func(a, b Installed) int { return b.Manifest.Installed.Compare(a.Manifest.Installed) })
	return list, nil
}

func (s *Store) installed(version string) Installed {
	i := Installed{Dir: filepath.Join(s.dir, version), Default: s.current() == version}
	i.Manifest, i.Err = readManifest(i.Dir)
	if i.Err != nil {
		i.Manifest = Manifest{Version: version}
	}
	return i
}

// find returns an installed version or unikernel.ErrNotFound.
func (s *Store) find(version string) (Installed, error) {
	if err := checkVersion(version); err != nil {
		return Installed{}, err
	}
	i := s.installed(version)
	if _, err := os.Stat(i.Dir); err != nil {
		return i, fmt.Errorf("%w: nanos %s is not installed: %w", unikernel.ErrNotFound, version, err)
	}
	return i, nil
}

// current returns the default version, empty for none.
func (s *Store) current() string {
	version, err := os.Readlink(s.currentPath())
	if err != nil {
		return ""
	}
	return version
}

func (s *Store) currentPath() string { return filepath.Join(s.dir, config.CurrentKernel) }

// Use makes an installed version the default. One that is not installed is
// unikernel.ErrNotFound.
func (s *Store) Use(version string) error {
	lock, err := s.lock()
	if err != nil {
		return err
	}
	defer lock.Unlock()
	i, err := s.find(version)
	if err = errors.Join(err, i.Err); err != nil {
		return err
	}
	return s.setCurrent(version)
}

// setCurrent replaces the link. The caller has the lock.
func (s *Store) setCurrent(version string) error {
	temp := filepath.Join(s.dir, "."+config.CurrentKernel+tempSuffix)
	if err := os.Symlink(version, temp); err != nil {
		return fmt.Errorf("make %s the default: %w", version, err)
	}
	if err := os.Rename(temp, s.currentPath()); err != nil {
		return fmt.Errorf("make %s the default: %w", version, errors.Join(err, os.Remove(temp)))
	}
	return syncDir(s.dir)
}

// Remove removes a version. The default one is ErrDefault while there are
// others, unless forced; then, and when it is the last, there is no default
// afterwards.
func (s *Store) Remove(version string, force bool) error {
	lock, err := s.lock()
	if err != nil {
		return err
	}
	defer lock.Unlock()
	i, err := s.find(version)
	if err != nil {
		return err
	}
	all, err := s.List()
	if err != nil {
		return err
	}
	if i.Default {
		if len(all) > 1 && !force {
			return fmt.Errorf("nanos %s %w: choose another with uni kernel use, or force it", version, ErrDefault)
		}
		if err := os.Remove(s.currentPath()); err != nil {
			return fmt.Errorf("remove default: %w", err)
		}
	}
	// Out of sight at once: half of a release must never be found.
	doomed := filepath.Join(s.dir, "."+version+tempSuffix)
	if err := os.Rename(i.Dir, doomed); err != nil {
		return fmt.Errorf("remove nanos %s: %w", version, err)
	}
	return errors.Join(os.RemoveAll(doomed), syncDir(s.dir))
}

// lock takes the Store's lock and removes what those left who died with it.
func (s *Store) lock() (*flock.Lock, error) {
	if _, err := os.Stat(s.dir); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: no nanos kernel is installed", unikernel.ErrNotFound)
	}
	lock, err := flock.Exclusive(filepath.Join(s.dir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("lock kernels: %w", err)
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		lock.Unlock()
		return nil, fmt.Errorf("clean kernels: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") && strings.HasSuffix(e.Name(), tempSuffix) {
			if err := os.RemoveAll(filepath.Join(s.dir, e.Name())); err != nil {
				s.opts.Log("clean %s: %v", s.dir, err)
			}
		}
	}
	return lock, nil
}

var versionPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$`)

// checkVersion says whether a name can be a version's directory.
func checkVersion(version string) error {
	if !versionPattern.MatchString(version) || version == config.CurrentKernel || version == "lock" {
		return invalid("%q cannot be a version: letters, digits and . _ + - are possible, but not %q and \"lock\"", version, config.CurrentKernel)
	}
	return nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
