package node

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"containerd-shim-uni/config"
)

// Shim is the name of the program that containerd starts, Server of the one that it
// starts.
const (
	Shim   = "containerd-shim-uni-v1"
	Server = "uni-shim"
)

// Node is a host's file system.
type Node struct {
	// Root is where it is mounted; empty for the one that this process sees.
	Root string
	// Source has the programs in bin, and the guest's files in lib/uni/linux.
	Source string
	// Prefix is where they go, such as /usr/local.
	Prefix string
	// Proc is the host's /proc.
	Proc string
}

// Changes are what Install or Uninstall did.
type Changes struct {
	// Files are the paths on the host that were written or removed.
	Files []string
	// Restart are the services, of which a host has one, that have to be restarted
	// to read their configuration; none if it has not changed.
	Restart []string
}

// files are what is installed, below Source and Prefix, in the order in which it is:
// a shim finds a guest at least as new as itself, and what is started what it starts.
var files = []struct {
	path string
	mode fs.FileMode
}{
	{"lib/uni/linux/vmlinux", 0o644},
	{"lib/uni/linux/initrd.img", 0o644},
	{"bin/uni", 0o755},
	{"bin/" + Server, 0o755},
	{"bin/" + Shim, 0o755},
}

// Install puts everything on the node that is not there yet. Nothing is changed if
// containerd's configuration cannot be.
func (n Node) Install() (Changes, error) {
	edits, restart, err := n.containerd(true)
	if err != nil {
		return Changes{}, err
	}
	var done Changes
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(n.Source, f.path))
		if err == nil {
			err = n.put(&done, filepath.Join(n.Prefix, f.path), text, f.mode)
		}
		if err != nil {
			return done, err
		}
	}
	if _, err := os.Stat(n.Root + config.DefaultPath); errors.Is(err, fs.ErrNotExist) {
		text := strings.ReplaceAll(config.DefaultFile(), "/usr/local/lib/uni/", n.Prefix+"/lib/uni/")
		if err := n.put(&done, config.DefaultPath, []byte(text), 0o644); err != nil {
			return done, err
		}
	}
	return done, n.apply(&done, edits, restart)
}

// Uninstall takes away what Install put there, but for /etc/uni and /var/lib/uni. It
// is refused while pods run by the runtime, whose shims are needed to remove them,
// unless it is forced.
func (n Node) Uninstall(force bool) (Changes, error) {
	if shims := n.shims(); len(shims) > 0 && !force {
		return Changes{}, fmt.Errorf("%d pods or containers run by this runtime (processes %v): remove them first", len(shims), shims)
	}
	edits, restart, err := n.containerd(false)
	if err != nil {
		return Changes{}, err
	}
	var done Changes
	if err := n.apply(&done, edits, restart); err != nil {
		return done, err
	}
	for _, f := range slices.Backward(files) {
		if err := n.remove(&done, filepath.Join(n.Prefix, f.path)); err != nil {
			return done, err
		}
	}
	for _, dir := range []string{"lib/uni/linux", "lib/uni"} { // with others' files in them they stay
		_ = os.Remove(filepath.Join(n.Root+n.Prefix, dir))
	}
	return done, nil
}

// Missing lists what Install would change.
func (n Node) Missing() ([]string, error) {
	edits, _, err := n.containerd(true)
	if err != nil {
		return nil, err
	}
	var missing []string
	for _, f := range files {
		want, err := os.ReadFile(filepath.Join(n.Source, f.path))
		if err != nil {
			return nil, err
		}
		path := filepath.Join(n.Prefix, f.path)
		if have, err := os.ReadFile(n.Root + path); err != nil || !bytes.Equal(have, want) {
			missing = append(missing, path)
		}
	}
	for _, e := range edits {
		missing = append(missing, e.path)
	}
	return missing, nil
}

// apply writes containerd's configuration.
func (n Node) apply(done *Changes, edits []edit, restart []string) error {
	for _, e := range edits {
		var err error
		if e.text == "" {
			err = n.remove(done, e.path)
		} else {
			err = n.put(done, e.path, []byte(e.text), 0o644)
		}
		if err != nil {
			return err
		}
		done.Restart = restart
	}
	return nil
}

// put makes a file what it shall be, unless it is. Who has it open keeps what it was.
func (n Node) put(done *Changes, path string, text []byte, mode fs.FileMode) error {
	at, err := n.resolve(path)
	if err != nil {
		return err
	}
	info, statErr := os.Stat(at)
	have, err := os.ReadFile(at)
	if err == nil && statErr == nil && bytes.Equal(have, text) && (info.Mode().Perm() == mode || !executable(mode)) {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if statErr == nil && !executable(mode) {
		mode = info.Mode().Perm() // it may hold secrets
	}
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	if err := writeFile(at, text, mode); err != nil {
		return fmt.Errorf("install %s: %w", path, err)
	}
	done.Files = append(done.Files, path)
	return nil
}

func executable(mode fs.FileMode) bool { return mode&0o111 != 0 }

// writeFile writes a file atomically.
func writeFile(path string, text []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".uni-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // it is not there if all went well
	defer f.Close()
	_, err = f.Write(text)
	if err := errors.Join(err, f.Chmod(mode), f.Sync()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// remove takes away a file, which need not be there.
func (n Node) remove(done *Changes, path string) error {
	err := os.Remove(n.Root + path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		done.Files = append(done.Files, path)
	}
	return err
}

// resolve is where a file of the node is for this process: what is reached by a
// symbolic link is replaced, and not the link. Links are the node's.
func (n Node) resolve(path string) (string, error) {
	for range 16 {
		to, err := os.Readlink(n.Root + path)
		if err != nil {
			return n.Root + path, nil // no link, or nothing yet
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(path), to)
		}
		path = to
	}
	return "", fmt.Errorf("%s: too many symbolic links", path)
}

// shims are the processes of the runtime, which are there as long as their pods.
func (n Node) shims() (pids []int) {
	all, _ := filepath.Glob(filepath.Join(n.Proc, "[0-9]*")) // the pattern is well formed
	for _, dir := range all {
		line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil {
			continue // it has ended
		}
		program, _, _ := strings.Cut(string(line), "\x00")
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil && filepath.Base(program) == Shim {
			pids = append(pids, pid)
		}
	}
	return pids
}
