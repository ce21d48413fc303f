package kvm

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Root is what L1 boots.
type Root struct{ Disk, Kernel, Initrd string }

// NewRoot returns the root below cache, the runtime's own cache directory; it
// is made, in about four minutes, when there is none for the scripts and
// package lists as they are. What making it says goes to log. checkout is the
// top folder of this repository.
func NewRoot(ctx context.Context, checkout, cache, log string) (Root, error) {
	cache = filepath.Join(cache, "kvm")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return Root{}, err
	}
	lock, err := os.Create(filepath.Join(cache, "lock"))
	if err != nil {
		return Root{}, err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return Root{}, fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	script := filepath.Join(checkout, "integration/kvm/root.sh")
	deploy := filepath.Join(checkout, "deploy")
	key, err := digest(script, filepath.Join(deploy, "packages"), filepath.Join(deploy, "deps.sh"),
		filepath.Join(deploy, "qemu-user.sh"), "/etc/os-release")
	if err != nil {
		return Root{}, err
	}
	dir := filepath.Join(cache, key)
	r := Root{filepath.Join(dir, "root.img"), filepath.Join(dir, "vmlinuz"), filepath.Join(dir, "initrd.img")}
	if _, err := os.Stat(r.Initrd); err == nil { // the last file that the script puts there
		return r, nil
	}
	fmt.Println("making the root of a machine with KVM, about four minutes, once; see", log)
	if err := others(cache); err != nil {
		return Root{}, err
	}
	return r, makeRoot(ctx, script, dir, log)
}

// makeRoot runs the script that makes a root.
func makeRoot(ctx context.Context, script, dir, log string) error {
	out, err := os.Create(log)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.CommandContext(ctx, script, dir)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("make the root of a machine with KVM: %w; what was said is in %s", err, log)
	}
	return nil
}

// others removes roots that were made for other package lists.
func others(cache string) error {
	dirs, err := filepath.Glob(filepath.Join(cache, "*", "root.img"))
	for _, d := range dirs {
		err = errors.Join(err, os.RemoveAll(filepath.Dir(d)))
	}
	return err
}

// digest is the start of a hash over files.
func digest(files ...string) (string, error) {
	h := sha256.New()
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%d\n%s", len(text), text)
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:8]), nil
}
