package states

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/builder/flock"
)

// Most is how many templates are kept: each takes what a guest that has just booted
// uses of its RAM, 30 to 100 MB. For another one the one that was not used for the
// longest time goes.
const Most = 16

// badFor is how long no template is made of a shape of which one was no good.
const badFor = time.Hour

const (
	stateFile  = "state"
	metaFile   = "meta.json"
	badSuffix  = ".bad"
	tempPrefix = ".new-"
	lockFile   = "lock"
)

// Errors of Make, told apart with errors.Is.
var (
	// ErrBusy: another template is being made on this host.
	ErrBusy = errors.New("another template is being made")
	// ErrBad: a template of the shape was no good a short time ago.
	ErrBad = errors.New("a template of the shape was no good")
)

// Store is the templates of a data directory. It has no state of its own.
type Store struct {
	dir string
	// minFree is how many bytes stay free where they are.
	minFree int64
}

// New returns the store below a data directory, of which nothing need be there.
// minFree is how many bytes making a template leaves free.
func New(dataDir string, minFree int64) *Store {
	return &Store{dir: filepath.Join(dataDir, "templates"), minFree: minFree}
}

// Template is one of the store.
type Template struct {
	// Shape is what machines must have in common, by which it is found.
	Shape string
	// About says to a person what it is of.
	About string
	// Size is that of the state and Allocated what it occupies, in bytes.
	Size, Allocated int64
	Made, Used      time.Time
	// Bad says why there is none; empty for one that can be used.
	Bad string
}

// meta is the file of that name.
type meta struct {
	About string    `json:"about"`
	Size  int64     `json:"size"`
	CRC   uint32    `json:"crc32c"`
	Made  time.Time `json:"made"`
}

// bad is the content of a file with badSuffix.
type bad struct {
	At  time.Time `json:"at"`
	Why string    `json:"why"`
}

// Find returns the file with the state of a shape, and notes that it is used. It is
// fs.ErrNotExist without one; one that is not whole is another error.
func (s *Store) Find(shape string) (file string, err error) {
	m, err := s.meta(shape)
	if err != nil {
		return "", err
	}
	file = filepath.Join(s.dir, shape, stateFile)
	info, err := os.Stat(file)
	if err != nil {
		return "", err
	}
	if info.Size() != m.Size {
		return "", fmt.Errorf("template %s has %d bytes of %d", shape, info.Size(), m.Size)
	}
	now := time.Now()
	_ = os.Chtimes(filepath.Join(s.dir, shape, metaFile), now, now) // who evicts guesses then
	return file, nil
}

// Verify reads all of a template, and is an error if it is not what was written.
func (s *Store) Verify(shape string) error {
	m, err := s.meta(shape)
	if err != nil {
		return err
	}
	f, err := os.Open(filepath.Join(s.dir, shape, stateFile))
	if err != nil {
		return err
	}
	defer f.Close()
	sum, size, err := checksum(f)
	if err == nil && (sum != m.CRC || size != m.Size) {
		err = fmt.Errorf("template %s: its content has changed since it was made", shape)
	}
	return err
}

// checksum is CRC-32C, which processors compute: it finds damage, and nobody but root
// could do more.
func checksum(r io.Reader) (sum uint32, size int64, err error) {
	h := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	size, err = io.CopyBuffer(h, struct{ io.Reader }{r}, make([]byte, 256<<10))
	return h.Sum32(), size, err
}

func (s *Store) meta(shape string) (m meta, err error) {
	data, err := os.ReadFile(filepath.Join(s.dir, shape, metaFile))
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("template %s: %w", shape, err)
	}
	return m, nil
}

// Reject removes a template that was no good, and says why: for a while there is no
// other.
func (s *Store) Reject(shape string, why error) error {
	data, err := json.Marshal(bad{time.Now(), why.Error()})
	if err != nil {
		return err
	}
	if err := s.makeDir(); err != nil {
		return err
	}
	temp := filepath.Join(s.dir, tempPrefix+shape+badSuffix)
	err = os.WriteFile(temp, data, 0o600)
	if err == nil {
		err = os.Rename(temp, filepath.Join(s.dir, shape+badSuffix))
	}
	return errors.Join(err, s.removeTemplate(shape))
}

// rejected says why there shall be no template of a shape now.
func (s *Store) rejected(shape string) (b bad, yes bool) {
	data, err := os.ReadFile(filepath.Join(s.dir, shape+badSuffix))
	if err != nil || json.Unmarshal(data, &b) != nil {
		return bad{}, false
	}
	return b, time.Since(b.At).Abs() < badFor
}

// Wanted says whether a template of a shape should be made: there is none, and there
// was none that was no good.
func (s *Store) Wanted(shape string) bool {
	_, err := os.Stat(filepath.Join(s.dir, shape, metaFile))
	_, no := s.rejected(shape)
	return errors.Is(err, fs.ErrNotExist) && !no
}

// Make makes a template of a shape, unless there is one; write writes the state, from
// the beginning. With force an earlier one that was no good does not count. When write
// fails, that is remembered as by Reject. ErrBusy and ErrBad say that write was not
// called.
func (s *Store) Make(shape, about string, force bool, write func(*os.File) error) error {
	if err := s.makeDir(); err != nil {
		return err
	}
	lock, err := flock.Try(filepath.Join(s.dir, lockFile))
	if err != nil {
		return err
	}
	if lock == nil {
		return ErrBusy
	}
	defer lock.Unlock()
	if err := s.tidy(); err != nil {
		return err
	}
	if _, err := s.Find(shape); err == nil {
		return nil
	}
	if b, no := s.rejected(shape); no && !force {
		return fmt.Errorf("%w: %s", ErrBad, b.Why)
	}
	if err := s.make(shape, about, write); err != nil {
		return errors.Join(err, s.Reject(shape, err))
	}
	return errors.Join(s.remove(shape+badSuffix), s.evict())
}

// makeDir makes the directory; through the one above it QEMU's users may pass, to disks.
func (s *Store) makeDir() error {
	if err := os.MkdirAll(filepath.Dir(s.dir), 0o711); err != nil {
		return err
	}
	err := os.Mkdir(s.dir, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// make is Make for who holds the lock.
func (s *Store) make(shape, about string, write func(*os.File) error) error {
	if err := s.room(); err != nil {
		return err
	}
	temp, err := os.MkdirTemp(s.dir, tempPrefix)
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp) // gone after the rename
	f, err := os.OpenFile(filepath.Join(temp, stateFile), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := write(f); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	m := meta{About: about, Made: time.Now()}
	if m.CRC, m.Size, err = checksum(f); err != nil {
		return err
	}
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(temp, metaFile), data, 0o600); err != nil {
		return err
	}
	if err := s.removeTemplate(shape); err != nil { // one that is not whole
		return err
	}
	return os.Rename(temp, filepath.Join(s.dir, shape))
}

// reserve is what a template may take, in bytes, beside what is to stay free.
const reserve = 256 << 20

// room says whether there is room for another template.
func (s *Store) room() error {
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		return err
	}
	if free := int64(st.Bavail) * st.Bsize; free < s.minFree+reserve {
		return fmt.Errorf("%s has %d MiB free, and a template is made only where storage.min_free and %d MiB are", s.dir, free>>20, reserve>>20)
	}
	return nil
}

// tidy removes what killed makers have left, for who holds the lock.
func (s *Store) tidy() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tempPrefix) {
			err = errors.Join(err, s.remove(e.Name()))
		}
	}
	return err
}

// evict removes those that were not used for the longest time while there are too
// many, for who holds the lock.
func (s *Store) evict() error {
	all, err := s.List()
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(t Template) bool { return t.Bad != "" })
	for _, t := range all[min(Most, len(all)):] {
		err = errors.Join(err, s.removeTemplate(t.Shape))
	}
	return err
}

// removeTemplate removes a template and not what is known of an earlier one.
func (s *Store) removeTemplate(shape string) error {
	// Away from its name first: nobody finds half of it.
	gone := filepath.Join(s.dir, tempPrefix+shape+".gone")
	err := os.Rename(filepath.Join(s.dir, shape), gone)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if errors.Is(err, fs.ErrExist) || errors.Is(err, unix.ENOTEMPTY) { // one who did so was killed
		gone = filepath.Join(s.dir, shape)
		err = nil
	}
	return errors.Join(err, os.RemoveAll(gone))
}

func (s *Store) remove(name string) error { return os.RemoveAll(filepath.Join(s.dir, name)) }

// Remove removes a template, and forgets that one was no good. It is fs.ErrNotExist
// if there is neither.
func (s *Store) Remove(shape string) error {
	all, err := s.List()
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(all, func(t Template) bool { return t.Shape == shape }) {
		return fmt.Errorf("template %s: %w", shape, fs.ErrNotExist)
	}
	return errors.Join(s.removeTemplate(shape), s.remove(shape+badSuffix))
}

// List lists the templates, most recently used first, and after them the shapes of
// which there is none because one was no good.
func (s *Store) List() ([]Template, error) {
	entries, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []Template
	for _, e := range entries {
		t, err := s.look(e.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue // it went meanwhile, or is none
		}
		if err != nil {
			return nil, err
		}
		all = append(all, t)
	}
	slices.SortFunc(all, func(a, b Template) int {
		return cmp.Or(strings.Compare(a.Bad, b.Bad), b.Used.Compare(a.Used), strings.Compare(a.Shape, b.Shape))
	})
	return all, nil
}

// look returns the template that a name in the directory stands for, fs.ErrNotExist
// for none.
func (s *Store) look(name string) (Template, error) {
	if strings.HasPrefix(name, tempPrefix) || name == lockFile {
		return Template{}, fs.ErrNotExist
	}
	if shape, ok := strings.CutSuffix(name, badSuffix); ok {
		b, no := s.rejected(shape)
		if !no {
			return Template{}, fs.ErrNotExist
		}
		return Template{Shape: shape, Bad: b.Why, Used: b.At}, nil
	}
	info, err := os.Stat(filepath.Join(s.dir, name, metaFile))
	if err != nil {
		return Template{}, err
	}
	m, err := s.meta(name)
	if errors.Is(err, fs.ErrNotExist) {
		return Template{}, err
	}
	t := Template{Shape: name, About: m.About, Size: m.Size, Made: m.Made, Used: info.ModTime()}
	if err != nil {
		t.Bad = err.Error()
	}
	if state, err := os.Stat(filepath.Join(s.dir, name, stateFile)); err == nil {
		t.Allocated = state.Sys().(*syscall.Stat_t).Blocks * 512 // st_blocks, see stat(2)
	}
	return t, nil
}
