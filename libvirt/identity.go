package libvirt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/libvirt/acl"
	"containerd-shim-uni/unikernel"
)

// The users of machines, one each. They are above all that hosts give out, and
// below what they cannot: users of the system and of people (up to 65535), of
// user namespaces (useradd's SUB_UID_MAX 600100000; systemd-nspawn up to
// 1879048191), of directories (sssd's ldap_idmap_range_max 2000200000); systemd
// uses 2147352576 on, and numbers of 2^31 and more are negative to some programs.
const (
	firstUID = 2_100_000_000
	numUIDs  = 1 << 16
)

// window is how many users a machine's name allows it. Of a name one knows where
// to look; with 1000 machines on a host all of a window are taken once in 10^113.
const window = 64

// DefaultIdentities is where a host's machines say which users they have.
const DefaultIdentities = "/var/lib/uni/identities"

// lease is a user that is one machine's alone, from before its QEMU starts
// until nothing of it is left. A file in a directory that all shims of the host
// share says so: its name is the user's number. It is linked there when it is
// whole, which fails if it exists: taking one needs no daemon and no lock.
type lease struct {
	dir string
	uid int
	record
}

// record is what the file says.
type record struct {
	// Machine is the machine's name and its libvirt.
	Machine string
	// Boot is the host's boot; what a boot before left has no process.
	Boot string
	// Files are those that belong to the user.
	Files []string
	// Reads are others that may have an entry for the user in their access lists: until
	// QEMU, which needs a name for them to start, has opened them.
	Reads []string `json:",omitempty"`
}

// owner is how a record names a machine.
func (t target) owner(machine string) string { return machine + "@" + t.lib }

// candidates are the users that a machine may have, the first one first.
func candidates(owner string) []int {
	first := int(digest(owner) % numUIDs)
	uids := make([]int, window)
	for i := range uids {
		uids[i] = firstUID + (first+i)%numUIDs
	}
	return uids
}

func digest(owner string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(owner))
	return h.Sum64()
}

// takeIdentity gives a machine a user that owns its files and will read others.
// One that it has is taken back before; while a process runs as that, it is
// fs.ErrExist.
func takeIdentity(dir, owner string, files, reads []string) (*lease, error) {
	if err := returnIdentity(dir, owner); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	id := &lease{dir: dir, record: record{Machine: owner, Boot: boot, Files: files, Reads: reads}}
	for _, id.uid = range candidates(owner) {
		err := id.claim()
		if errors.Is(err, fs.ErrExist) && outdated(dir, id.uid, boot) {
			err = id.claim()
		}
		if !errors.Is(err, fs.ErrExist) {
			return id, err
		}
	}
	return nil, fmt.Errorf("%w: the users %d to %d are taken, see %s", unikernel.ErrUnavailable,
		candidates(owner)[0], id.uid, dir)
}

// withIdentity does something to a machine's user, which nobody else gives back
// meanwhile. A machine that has none is unikernel.ErrNotFound and fs.ErrNotExist.
func withIdentity(dir, owner string, f func(*lease) error) error {
	unlock, err := lockIdentities(dir)
	if err != nil {
		return err
	}
	defer unlock()
	none := fmt.Errorf("%w: machine %s has no user: %w", unikernel.ErrNotFound, owner, fs.ErrNotExist)
	for _, uid := range candidates(owner) {
		id, err := readIdentity(dir, uid)
		if errors.Is(err, fs.ErrNotExist) || err == nil && id.Machine != owner {
			continue
		}
		if err != nil {
			return err
		}
		if err := f(id); err != nil {
			return err
		}
		none = nil
	}
	return none
}

// rewrite replaces the record, within withIdentity.
func (id *lease) rewrite() error {
	return id.write(func(file string) error { return os.Rename(file, id.file()) })
}

// claim links the record under the user's number, fs.ErrExist if that is taken.
func (id *lease) claim() error {
	if running, err := runsAs(id.uid); err != nil || running {
		return errors.Join(err, fs.ErrExist) // whose process that is nobody says
	}
	return id.write(func(file string) error { return os.Link(file, id.file()) })
}

// unnamed is the file of an owner's record before it has its name. Whoever cleans up
// after the owner finds what one that was killed left.
func unnamed(dir, owner string) string {
	return filepath.Join(dir, fmt.Sprintf(".new-%016x", digest(owner)))
}

// write puts the record in a file, which place gives its name.
func (id *lease) write(place func(file string) error) error {
	data, err := json.Marshal(id.record)
	if err != nil {
		return err
	}
	file := unnamed(id.dir, id.Machine)
	defer os.Remove(file)
	if err := os.WriteFile(file, data, 0o600); err != nil {
		return err
	}
	return place(file)
}

func (id *lease) file() string { return filepath.Join(id.dir, strconv.Itoa(id.uid)) }

// outdated gives back a user whose machine ended with an earlier boot.
func outdated(dir string, uid int, boot string) bool {
	unlock, err := lockIdentities(dir)
	if err != nil {
		return false
	}
	defer unlock()
	old, err := readIdentity(dir, uid)
	return err == nil && old.Boot != boot && old.giveBack() == nil
}

// returnIdentity gives back the user of a machine that has ended, if it has one.
func returnIdentity(dir, owner string) error {
	if dir == "" {
		return nil
	}
	err := withIdentity(dir, owner, (*lease).giveBack)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Remove(unnamed(dir, owner)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// lockIdentities keeps others from giving back: of two who do, the second would
// remove what a third has linked in between.
func lockIdentities(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return func() { f.Close() }, nil
}

func readIdentity(dir string, uid int) (*lease, error) {
	id := &lease{dir: dir, uid: uid}
	data, err := os.ReadFile(id.file())
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, &id.record); err != nil {
		return nil, fmt.Errorf("%s: %w", id.file(), err)
	}
	return id, nil
}

// giveBack takes the files from the user and lets others have it. It stays taken
// while one of its processes runs, which is fs.ErrExist, or a file is its own.
func (id *lease) giveBack() error {
	running, err := runsAs(id.uid)
	if err != nil {
		return err
	}
	if running {
		return fmt.Errorf("user %d of machine %s: a process runs as it: %w", id.uid, id.Machine, fs.ErrExist)
	}
	if err := id.closeReads(); err != nil {
		return fmt.Errorf("user %d of machine %s: %w", id.uid, id.Machine, err)
	}
	for _, path := range id.Files {
		if err := takeBack(path, id.uid); err != nil {
			return fmt.Errorf("user %d of machine %s: %w", id.uid, id.Machine, err)
		}
	}
	if err := os.Remove(id.file()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// closeReads takes the user from the access lists of what it read, within
// withIdentity: who else changes them waits.
func (id *lease) closeReads() error {
	for _, path := range id.Reads {
		if err := acl.Remove(path, id.uid); err != nil {
			return err
		}
	}
	return nil
}

// takeBack gives root a file of a user. One that is gone, or another machine's
// by now, as a layer's is, stays as it is.
func takeBack(path string, uid int) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != uid {
		return nil
	}
	return os.Lchown(path, 0, 0)
}

// killUser ends what runs as a machine's user, for one whose owner is dead. That
// is QEMU, also before it is QEMU: libvirt's child takes the user first, and has
// the name of what forked it until then.
func killUser(ctx context.Context, dir, owner string) error {
	if dir == "" {
		return nil
	}
	for _, uid := range candidates(owner) {
		id, err := readIdentity(dir, uid)
		if errors.Is(err, fs.ErrNotExist) || err == nil && id.Machine != owner {
			continue
		}
		if err != nil {
			return err
		}
		if err := killAllOf(ctx, uid); err != nil {
			return fmt.Errorf("user %d of machine %s: %w", uid, owner, err)
		}
	}
	return nil
}

// killAllOf ends the processes of a user, also those that come meanwhile.
func killAllOf(ctx context.Context, uid int) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		pids, err := processesOf(uid)
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			p, err := openProcess(pid)
			if errors.Is(err, unix.ESRCH) {
				continue
			}
			if err != nil {
				return err
			}
			if !aliveAs(pid, uid) { // it ended, and the number may be another's by now
				p.close()
				continue
			}
			if err := kill(ctx, p); err != nil {
				return err
			}
		}
	}
}

// runsAs tells whether a process has the user.
func runsAs(uid int) (bool, error) {
	pids, err := processesOf(uid)
	return len(pids) > 0, err
}

// processesOf finds the processes of a user; that there are none the kernel knows
// at once. One that has ended and waits for its parent does not count.
func processesOf(uid int) (pids []int, err error) {
	_, err = unix.Getpriority(unix.PRIO_USER, uid)
	if errors.Is(err, unix.ESRCH) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("processes of user %d: %w", uid, err)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if pid := number(e.Name()); pid > 0 && aliveAs(pid, uid) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// aliveAs tells whether a process has the user as its real one and is no zombie.
// The owner of its directory in /proc would not do: a process can make that root.
func aliveAs(pid, uid int) bool {
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	return err == nil && strings.Contains(string(status), "\nUid:\t"+strconv.Itoa(uid)+"\t") &&
		!strings.Contains(string(status), "\nState:\tZ")
}

func bootID() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(data)), err
}

// writable are the files of a machine that its QEMU writes.
func writable(m unikernel.Machine) []string {
	var files []string
	for _, d := range m.Disks {
		if !d.ReadOnly {
			files = append(files, d.Path)
		}
	}
	return files
}
