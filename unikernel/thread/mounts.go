package thread

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// InMountNS runs f on a thread in another mount namespace, whose root it has too.
// Processes that f starts are there.
func InMountNS(ns *os.File, f func() error) error {
	return Discard(func() error {
		if err := unix.Unshare(unix.CLONE_FS); err != nil { // a namespace is entered by a thread alone
			return os.NewSyscallError("unshare", err)
		}
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("enter mount namespace: %w", err)
		}
		return f()
	})
}
