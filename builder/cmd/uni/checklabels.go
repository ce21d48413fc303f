package main

import (
	"context"
	"strings"

	"containerd-shim-uni/config"
)

// localProfile is what an administrator adds to AppArmor's profile of each QEMU of
// libvirtd's; shareRule is what shared directories need of it.
const (
	localProfile = "/etc/apparmor.d/local/abstractions/libvirt-qemu"
	shareRule    = "/run/uni/*/share.sock rw,"
)

// checkLabels is about AppArmor and SELinux, by which libvirtd confines QEMU beside the
// walls that need neither.
func checkLabels(_ context.Context, h host, c config.Config) finding {
	var found []string
	if enabled, err := h.read("/sys/module/apparmor/parameters/enabled"); err == nil && strings.HasPrefix(enabled, "Y") {
		found = append(found, "AppArmor")
	}
	if h.exists("/sys/fs/selinux/enforce") {
		found = append(found, "SELinux")
	}
	on := strings.Join(found, " and ")
	switch {
	case on == "":
		return ok("neither AppArmor nor SELinux: the walls of docs/security.md do not need them")
	case strings.HasPrefix(c.Libvirt.URI, "qemu:///embed"):
		return ok("%s, not used for QEMU by an embedded libvirt, whose profiles know libvirt's own directories only: the walls of docs/security.md do not need it", on)
	case found[0] == "AppArmor":
		if rules, err := h.read(localProfile); err != nil || !strings.Contains(rules, shareRule) {
			return warn("add the line "+shareRule+" to "+localProfile, "AppArmor, used by libvirtd: containers with shared directories may not start")
		}
	}
	return ok("%s, used for QEMU by libvirtd if its security_driver says so (the default)", on)
}
