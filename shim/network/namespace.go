package network

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"containerd-shim-uni/unikernel/thread"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// New makes a network namespace at path, see NewNamespace.
func (Linker) New(path string) error { return NewNamespace(path) }

// Drop undoes New, see RemoveNamespace.
func (Linker) Drop(path string) error { return RemoveNamespace(path) }

// NewNamespace makes a network namespace with its loopback interface up and
// keeps it by a bind mount at path, as ip-netns(8) does.
func NewNamespace(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return err
	}
	file.Close()
	if err := thread.Discard(func() error { return newNamespace(path) }); err != nil {
		return errors.Join(fmt.Errorf("make network namespace %s: %w", path, err), os.Remove(path))
	}
	return nil
}

func newNamespace(path string) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
}

// RemoveNamespace undoes NewNamespace; an absent one is not an error.
func RemoveNamespace(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// Within runs f on a thread of its own that is in the network namespace at path,
// and so are the processes that f starts.
func Within(path string, f func() error) error {
	target, err := open(path)
	if err != nil {
		return err
	}
	defer target.Close()
	return thread.Discard(func() error {
		if err := netns.Set(target); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", path, err)
		}
		return f()
	})
}

// inNamespace runs f with a netlink connection to the namespace at path.
func inNamespace(path string, f func(*netlink.Handle) error) error {
	ns, err := open(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink in %s: %w", path, err)
	}
	defer h.Close()
	return f(h)
}

// open opens a namespace file. A path that is no namespace, such as the empty
// file an unmount leaves, is os.ErrNotExist like an absent one.
func open(path string) (netns.NsHandle, error) {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return ns, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	kind, err := unix.IoctlRetInt(int(ns), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		ns.Close()
		return netns.None(), fmt.Errorf("%s is not a network namespace: %w", path, os.ErrNotExist)
	}
	return ns, nil
}
