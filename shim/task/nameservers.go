package task

import (
	"bufio"
	"io"
	"net/netip"
	"os"
	"path"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const (
	resolvConf = "/etc/resolv.conf"
	// maxResolvConf bounds what is read of it, in bytes; real ones have some hundred.
	maxResolvConf = 64 << 10
)

// nameservers are those of a resolv.conf(5) that is mounted into the container, for a
// guest that mounts nothing. Those at an address of the machine itself, where nothing
// answers, are left out; so is what cannot be read: the container does without.
func nameservers(mounts []specs.Mount) []netip.Addr {
	source := ""
	for _, m := range mounts {
		if path.Clean(m.Destination) == resolvConf {
			source = m.Source
		}
	}
	if source == "" {
		return nil
	}
	f, err := os.OpenFile(source, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil
	}
	var list []netip.Addr
	for lines := bufio.NewScanner(io.LimitReader(f, maxResolvConf)); lines.Scan(); {
		words := strings.Fields(lines.Text())
		if len(words) < 2 || words[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(words[1]); err == nil && !a.IsLoopback() && !a.IsUnspecified() {
			list = append(list, a.Unmap())
		}
	}
	return list
}
