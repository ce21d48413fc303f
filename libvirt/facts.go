package libvirt

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/libvirt/acl"
	"containerd-shim-uni/libvirt/kvm"
	"containerd-shim-uni/libvirt/qemufiles"
	"containerd-shim-uni/unikernel"
)

// Values of Options.Accel.
const (
	AccelAuto = "auto" // KVM where it works, else emulation
	AccelKVM  = "kvm"  // KVM, or Open fails
	AccelTCG  = "tcg"  // emulation
)

// qemuUsers are the users that distributions make for QEMU: Debian and Ubuntu;
// Fedora, SUSE and Arch.
var qemuUsers = []string{"libvirt-qemu", "qemu"}

// facts finds out about the host what needs no libvirt.
func facts(opts Options, log func(string, ...any)) (Host, error) {
	h := Host{}
	switch opts.Accel {
	case "", AccelAuto, AccelKVM:
		err := kvm.Probe(kvm.Device)
		h.KVM = err == nil
		if err != nil && opts.Accel == AccelKVM {
			return h, fmt.Errorf("KVM is asked for: %w: %w", unikernel.ErrUnavailable, err)
		}
		if err != nil {
			log("no KVM, the processor is emulated: %v", err)
		}
	case AccelTCG:
	default:
		return h, fmt.Errorf("%w: accelerator %q; known are %s, %s and %s",
			unikernel.ErrInvalid, opts.Accel, AccelAuto, AccelKVM, AccelTCG)
	}
	h.Firmware = qemufiles.Qboot("")
	if _, err := os.Stat("/dev/vhost-net"); err == nil {
		h.VhostNet = true
	}
	return h, nil
}

// account is a user of this host.
type account struct {
	name   string
	uid    int
	gid    int
	groups []int // supplementary ones too
	// lists says that what it reads is opened to it alone, by access lists, and
	// not to its group.
	lists bool
}

var root = account{name: "root", groups: []int{0}}

// qemuAccount is the user that QEMU runs as: the one asked for, else the
// distribution's, else root; root also where KVM's device is closed to the
// distribution's user, because emulation would be the alternative.
func qemuAccount(name string, useKVM bool, log func(string, ...any)) (account, error) {
	if name != "" {
		a, err := lookupAccount(name)
		if err != nil {
			return root, fmt.Errorf("QEMU's user: %w: %w", unikernel.ErrInvalid, err)
		}
		return a, nil
	}
	if os.Geteuid() != 0 {
		return account{name: "ourselves", uid: os.Geteuid(), gid: os.Getegid()}, nil
	}
	for _, name := range qemuUsers {
		a, err := lookupAccount(name)
		if err != nil {
			continue
		}
		if !useKVM {
			return a, nil
		}
		if a, ok := withGroupFor(a, kvm.Device); ok {
			return a, nil
		}
		if acl.Supported(kvm.Device) == nil {
			return a, nil
		}
		log("QEMU runs as root: no group of user %s may open %s, as udev lets the group kvm: chgrp kvm %s; chmod 660 %s",
			name, kvm.Device, kvm.Device, kvm.Device)
		return root, nil
	}
	log("QEMU runs as root: there is no user %s", strings.Join(qemuUsers, " or "))
	return root, nil
}

// withGroupFor gives the account the first of its groups with which a machine's
// own user may open a device: Debian's user for QEMU has the group of KVM's as
// its first one, others' may have it as a further one.
func withGroupFor(a account, device string) (_ account, ok bool) {
	for _, a.gid = range append([]int{a.gid}, a.groups...) {
		if own(a, firstUID).allowed(device, unix.R_OK|unix.W_OK) {
			return a, true
		}
	}
	return a, false
}

// own is a machine's user: libvirt gives it one group, since no file names it. That
// is its own where access lists open files to it, else the account's.
func own(a account, uid int) account {
	gid := a.gid
	if a.lists {
		gid = uid
	}
	return account{name: strconv.Itoa(uid), uid: uid, gid: gid, groups: []int{gid}, lists: a.lists}
}

// hasLists says why machines cannot have groups of their own, nil if they can: a
// file that several read is then opened to each of their users by the file's access
// list. dirs are where such files are.
func hasLists(dirs []string, useKVM bool) error {
	if useKVM {
		dirs = append(slices.Clone(dirs), kvm.Device)
	}
	for _, dir := range dirs {
		if err := acl.SupportedFor(dir); err != nil {
			return err
		}
	}
	return nil
}

// lookupAccount finds a user by name or number.
func lookupAccount(name string) (account, error) {
	u, err := user.Lookup(name)
	if err != nil {
		if u, err = user.LookupId(name); err != nil {
			return account{}, fmt.Errorf("there is no user %q", name)
		}
	}
	a := account{name: u.Username}
	a.uid, err = strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err := errors.Join(err, err2); err != nil {
		return account{}, err
	}
	a.gid, a.groups = gid, []int{gid}
	ids, err := u.GroupIds()
	if err != nil {
		return account{}, fmt.Errorf("groups of user %s: %w", name, err)
	}
	for _, id := range ids {
		if n, err := strconv.Atoi(id); err == nil && !slices.Contains(a.groups, n) {
			a.groups = append(a.groups, n)
		}
	}
	return a, nil
}

// allowed tells from owner, group and mode whether the account may access a
// file in the way of access(2): unix.R_OK, W_OK, X_OK.
func (a account) allowed(path string, access uint32) bool {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return false
	}
	shift := 0
	switch {
	case a.uid == 0:
		return true
	case int(st.Uid) == a.uid:
		shift = 6
	case slices.Contains(a.groups, int(st.Gid)):
		shift = 3
	}
	return st.Mode>>shift&access == access
}
