package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"golang.org/x/sys/unix"

	"containerd-shim-uni/config"
)

// leastKernel is the host's that all features need: its sk_assign takes connections to
// a pod's loopback (Linux 5.7, bpf-helpers(7)); mounts are moved to where they are
// shared since 5.2.
var leastKernel, partKernel = [2]int{5, 7}, [2]int{5, 2}

// checkHostKernel is about the age of the host's kernel.
func checkHostKernel(_ context.Context, h host, _ config.Config) finding {
	release, err := h.read("/proc/sys/kernel/osrelease")
	release = strings.TrimSpace(release)
	var have [2]int
	if err == nil {
		_, err = fmt.Sscanf(release, "%d.%d", &have[0], &have[1])
	}
	switch {
	case err != nil:
		return warn("mount /proc", "the kernel's release cannot be told: %v", err)
	case older(have, partKernel):
		return fail("boot Linux 5.7 or newer", "Linux %s: directories cannot be shared with machines before 5.2", release)
	case older(have, leastKernel):
		return warn("boot Linux 5.7 or newer", "Linux %s: kubectl port-forward does not reach servers in machines before 5.7", release)
	}
	return ok("Linux %s", release)
}

func older(a, b [2]int) bool { return a[0] < b[0] || a[0] == b[0] && a[1] < b[1] }

// leastInstances and leastWatches are what a node of 110 pods, the kubelet's default,
// wants: an instance a pod that follows its volumes, of which root's kubelet and
// containerd take a few dozen, and a few watches each.
const leastInstances, leastWatches = 256, 8192

// checkInotify is about what follows ConfigMaps and their like on the host.
func checkInotify(_ context.Context, h host, _ config.Config) finding {
	const dir = "/proc/sys/fs/inotify/"
	var have [2]int
	for i, name := range []string{"max_user_instances", "max_user_watches"} {
		text, err := h.read(dir + name)
		if err == nil {
			have[i], err = strconv.Atoi(strings.TrimSpace(text))
		}
		if err != nil {
			return warn("mount /proc", "%s: %v", dir+name, err)
		}
	}
	text := fmt.Sprintf("fs.inotify.max_user_instances %d, max_user_watches %d", have[0], have[1])
	if have[0] < leastInstances || have[1] < leastWatches {
		return warn(fmt.Sprintf("for many pods: sysctl -w fs.inotify.max_user_instances=%d fs.inotify.max_user_watches=%d, and in /etc/sysctl.d", 4*leastInstances, 8*leastWatches),
			"%s: each pod with a ConfigMap or the like takes an instance, and without one its changes come ten seconds later", text)
	}
	return ok("%s", text)
}

// kubeletFiles are where kubeadm and k3s have the kubelet's configuration.
var kubeletFiles = []string{"/var/lib/kubelet/config.yaml", "/var/lib/rancher/k3s/agent/etc/kubelet.conf.d/00-k3s-defaults.conf"}

// checkCgroupDriver compares who makes cgroups of pods: the kubelet and containerd have
// to agree. This runtime follows what it is told.
func checkCgroupDriver(_ context.Context, h host, _ config.Config) finding {
	var kubelet, where string
	for _, file := range kubeletFiles {
		text, err := h.read(file)
		if err != nil {
			continue
		}
		where, kubelet = file, "systemd" // kubeadm's default since 1.22
		for line := range strings.Lines(text) {
			if value, found := strings.CutPrefix(strings.TrimSpace(line), "cgroupDriver:"); found {
				kubelet = strings.Trim(strings.TrimSpace(value), `"'`)
			}
		}
		break
	}
	if where == "" {
		return ok("no kubelet here")
	}
	containerd, file, err := h.containerdDriver()
	switch {
	case err != nil:
		return warn("correct the file", "%v", err)
	case containerd == "":
		return ok("%s by the kubelet; containerd says nothing of runc's", kubelet)
	case containerd != kubelet:
		return warn(fmt.Sprintf("set SystemdCgroup = %t for runc there, or cgroupDriver in %s, and restart both", kubelet == "systemd", where),
			"%s says %s, and %s %s: pods' limits and figures are lost", where, kubelet, file, containerd)
	}
	return ok("%s by the kubelet and by containerd", kubelet)
}

// containerdDriver is what the last file of containerd's configuration that tells says
// of runc's cgroups.
func (h host) containerdDriver() (driver, file string, err error) {
	files := append(h.glob("/etc/containerd/config.toml"), h.glob("/etc/containerd/conf.d/*.toml")...)
	for _, rancher := range rancherFiles {
		files = append(files, h.glob(rancher)...)
	}
	for _, f := range files {
		text, err := h.read(f)
		if err != nil {
			return "", "", err
		}
		var c struct {
			Plugins map[string]struct {
				Containerd struct {
					Runtimes map[string]struct {
						Options struct {
							SystemdCgroup *bool
						} `toml:"options"`
					}
				}
			}
		}
		if err := toml.Unmarshal([]byte(text), &c); err != nil {
			return "", "", fmt.Errorf("%s: %w", f, err)
		}
		for _, p := range c.Plugins {
			if s := p.Containerd.Runtimes["runc"].Options.SystemdCgroup; s != nil {
				file, driver = f, "cgroupfs"
				if *s {
					driver = "systemd"
				}
			}
		}
	}
	return driver, file, nil
}

// checkMemory is about the kernel's readiness to promise memory: a machine's is
// touched as it is used.
func checkMemory(_ context.Context, h host, _ config.Config) finding {
	text, err := h.read("/proc/sys/vm/overcommit_memory")
	if err != nil {
		return ok("not told")
	}
	if strings.TrimSpace(text) == "2" {
		return warn("sysctl -w vm.overcommit_memory=1, as the kubelet does", "vm.overcommit_memory is 2: all of a machine's memory counts as used when it is made")
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return ok("memory is given when it is used")
	}
	return ok("memory is given when it is used; the host has %s", human(int64(info.Totalram)*int64(info.Unit)))
}
