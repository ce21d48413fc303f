// Package boottest boots the linux guest in bare QEMU and tests PID 1 through
// a Session: what neither unit tests nor fakes can show. It needs
// qemu-system-x86_64, mkfs.erofs, mkfs.ext4, a static busybox and the files
// that the build puts into out/guest, but no KVM, and runs only with
// UNI_QEMU_TESTS=1. UNI_GUEST_DIR names another directory than out/guest.
package boottest
