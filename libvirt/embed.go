package libvirt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/libvirt/confine"
	"containerd-shim-uni/unikernel"
)

// The directories of an embedded driver's root, all of them libvirt's.
var embedDirs = []string{"etc", "cache", "lib", "log", "run"}

// capsDir is where libvirt keeps what it found out about QEMU, below the root.
const capsDir = "cache/qemu/capabilities"

// One process can hold one embedded driver: libvirt starts it at the first
// connection, and it stays until the process ends.
var embed struct {
	mu   sync.Mutex
	root string // "" until the first Open
	used bool   // a Driver has it, or its root is removed
}

// claimEmbed reserves this process's embedded driver.
func claimEmbed(root string) error {
	embed.mu.Lock()
	defer embed.mu.Unlock()
	switch {
	case embed.used:
		return fmt.Errorf("embedded libvirt: %w: this process had one already, at %s; a process can have one",
			unikernel.ErrUnavailable, embed.root)
	case embed.root != "" && embed.root != root:
		return fmt.Errorf("embedded libvirt: %w: this process has it at %s, not at %s",
			unikernel.ErrUnavailable, embed.root, root)
	}
	embed.root, embed.used = root, true
	return nil
}

// yieldEmbed gives the reservation back. The driver inside stays.
func yieldEmbed() {
	embed.mu.Lock()
	defer embed.mu.Unlock()
	embed.used = false
}

// prepareEmbed makes the root of an embedded driver with its configuration and
// the shared knowledge of QEMU. QEMU's user passes through the root to its
// own files, so it is searchable for everyone and listable for none.
func prepareEmbed(root, caps string, apart bool) error {
	if err := os.MkdirAll(root, 0o711); err != nil {
		return err
	}
	for _, dir := range []string{"etc", "log", capsDir} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o711); err != nil {
			return err
		}
	}
	file := filepath.Join(root, "etc/qemu.conf")
	if err := os.WriteFile(file, []byte(qemuConf(apart, confine.Possible() == nil)), 0o600); err != nil {
		return err
	}
	return copyCaps(caps, filepath.Join(root, capsDir))
}

// qemuConf is the embedded driver's configuration, see libvirt's
// src/qemu/qemu.conf.in for the settings:
//   - stdio_handler: without the daemon virtlogd each start would wait a minute;
//   - cgroup_controllers: the caller places QEMU in the container's cgroup;
//   - namespaces: by default a mount namespace a machine where libvirt was built
//     for it, see package confine. Where it cannot be made, starts would fail;
//   - security_driver: SELinux and AppArmor profiles know libvirt's own
//     directories only. QEMU's user and seccomp filter hold without them;
//   - dynamic_ownership, remember_owner: nothing is relabelled, see security;
//   - user, group: each domain names its own, see security. This is for the
//     QEMU that is probed. As another user, to whom /dev/kvm is closed, it would
//     be probed again at every start: libvirt lets the probe open the device
//     all the same, then finds its result at odds with the device's mode;
//   - max_core: no dumps of the guest's memory;
//   - max_processes: threads of a user, see maxThreads.
func qemuConf(apart, namespaces bool) string {
	lines := []string{
		`stdio_handler = "file"`,
		`cgroup_controllers = [ ]`,
		`security_driver = "none"`,
		`security_default_confined = 0`,
		`seccomp_sandbox = 1`,
		`user = "root"`,
		`group = "root"`,
		`dynamic_ownership = 0`,
		`remember_owner = 0`,
		`max_core = 0`,
	}
	if apart {
		lines = append(lines, `max_processes = `+strconv.Itoa(maxThreads))
	}
	if !namespaces {
		lines = append(lines, `namespaces = [ ]`)
	}
	return strings.Join(lines, "\n") + "\n"
}

// copyCaps copies libvirt's files about QEMU that to does not have. Each is
// written beside its name and renamed, so a reader never sees half of one.
// libvirt itself writes in place; therefore no two drivers share a directory.
func copyCaps(from, to string) error {
	if from == "" || to == "" {
		return nil
	}
	entries, err := os.ReadDir(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o711); err != nil {
		return err
	}
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".xml" || !e.Type().IsRegular() {
			continue
		}
		if err := copyFile(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// copyFile copies a file unless the copy is there with the same size and time.
func copyFile(from, to string) error {
	src, err := os.Stat(from)
	if err != nil {
		return err
	}
	if dst, err := os.Stat(to); err == nil && dst.Size() == src.Size() && dst.ModTime().Equal(src.ModTime()) {
		return nil
	}
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(to), ".caps-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // gone after the rename
	_, err = tmp.Write(data)
	if err := errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	if err := os.Chtimes(tmp.Name(), src.ModTime(), src.ModTime()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), to)
}

// lockCaps serializes first starts: probing QEMU takes seconds, and who waited
// finds the result. The lock is only taken while nothing is known yet, and
// goes with the process at the latest.
func lockCaps(ctx context.Context, caps string) (unlock func(), err error) {
	if caps == "" || capsKnown(caps) {
		return func() {}, nil
	}
	if err := os.MkdirAll(caps, 0o711); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(caps, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func capsKnown(caps string) bool {
	found, err := filepath.Glob(filepath.Join(caps, "*.xml"))
	return err == nil && len(found) > 0
}

// removeEmbed removes what an embedded driver made below its root, and the
// root itself when nothing else is in it. A thread of libvirt that forgets a
// machine may write there meanwhile, therefore the second try.
func removeEmbed(root string) error {
	err := removeOnce(root)
	for range 3 {
		if err == nil {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
		err = removeOnce(root)
	}
	return err
}

func removeOnce(root string) error {
	var errs []error
	for _, dir := range embedDirs {
		errs = append(errs, os.RemoveAll(filepath.Join(root, dir)))
	}
	err := os.Remove(root)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTEMPTY) {
		err = nil
	}
	return errors.Join(append(errs, err)...)
}
