package libvirt

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// cgroupRoots are where cgroups are mounted: one tree (v2), or one a
// controller (v1).
var cgroupRoots = []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"}

// daemonCgroup is how libvirtd names a machine's cgroup below "machine".
var daemonCgroup = regexp.MustCompile(`^qemu-[0-9]+-(.*)\.libvirt-qemu$`)

// maxMachineName is where libvirt cuts the name in it (virsystemd.c).
const maxMachineName = 64

// removeDaemonCgroups removes the cgroups that libvirtd made for a machine and
// forgot when it was killed. Those that hold a process stay.
func removeDaemonCgroups(name string) {
	for _, root := range cgroupRoots {
		found, _ := filepath.Glob(filepath.Join(root, "machine", "qemu-*")) // the pattern is well formed
		for _, dir := range found {
			if m := daemonCgroup.FindStringSubmatch(filepath.Base(dir)); m != nil && isMachineName(m[1], name) {
				removeCgroup(dir)
			}
		}
	}
}

// isMachineName tells whether libvirt makes this name of a cgroup from a
// domain's: of several separators in a row it keeps the first.
func isMachineName(cgroup, name string) bool {
	var b strings.Builder
	last := byte(0)
	for i := range len(name) {
		c := name[i]
		if (c == '-' || c == '.') && (last == '-' || last == '.') {
			continue
		}
		if last = c; c != '_' { // no character of a host name
			b.WriteByte(c)
		}
	}
	want := b.String()
	return cgroup == want || len(want)+len("qemu-0-") > maxMachineName && strings.HasPrefix(want, cgroup) && len(cgroup) > 20
}

// removeCgroup removes a cgroup and those below it. The kernel refuses one that
// is in use.
func removeCgroup(dir string) {
	var dirs []string
	_ = filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	for _, d := range slices.Backward(dirs) {
		_ = os.Remove(d)
	}
}
