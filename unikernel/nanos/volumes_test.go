package nanos

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"containerd-shim-uni/unikernel"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

const limit = 5 << 20 // of a bind mount

// bind returns a bind mount of /src of this size; a directory if that is negative.
func bind(dst string, size int64, options ...string) unikernel.SharedMount {
	s := unikernel.SharedMount{Mount: specs.Mount{Destination: dst, Type: "bind", Source: "/src", Options: options}, Size: size}
	if size < 0 {
		s.Dir, s.Size = true, 0
	}
	return s
}

func ram(dst string, options ...string) specs.Mount {
	return specs.Mount{Destination: dst, Type: "tmpfs", Source: "tmpfs", Options: options}
}

// What containerd's default specification and its CRI plug-in mount.
var (
	defaults = []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc"},
		ram("/dev", "nosuid", "strictatime", "mode=755", "size=65536k"),
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts"},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"mode=1777", "size=65536k"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue"},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"ro"}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup"},
		ram("/run", "nosuid", "strictatime", "mode=755", "size=65536k"),
	}
	pod = []unikernel.SharedMount{
		bind("/etc/hosts", 200, "rbind", "rprivate", "rw"), bind("/etc/hostname", 4, "rbind", "rw"),
		bind("/etc/resolv.conf", 100, "rbind", "rw"), bind("/dev/termination-log", 0, "rbind", "rw"),
		bind("/dev/shm", -1, "rbind", "rw"),
		bind("/var/run/secrets/kubernetes.io/serviceaccount", -1, "rbind", "ro"),
	}
)

func files(paths ...string) (list []unikernel.BootFile) {
	for _, p := range paths {
		list = append(list, unikernel.BootFile{Path: p, Source: "/src"})
	}
	return list
}

func copied(path string, readOnly, recursive bool) unikernel.Volume {
	return unikernel.Volume{Path: path, Source: "/src", Recursive: recursive, ReadOnly: readOnly, MaxSource: limit}
}

func TestMounts(t *testing.T) {
	const mib = 1 << 20
	for name, tt := range map[string]struct {
		shares       []unikernel.SharedMount
		mounts       []specs.Mount
		readOnlyRoot bool
		copies       bool
		want         unikernel.BootConfig
	}{
		"defaults": {mounts: defaults, want: unikernel.BootConfig{Directories: []string{"/dev/shm", "/run"}}},
		"defaults, read-only root": {mounts: defaults, readOnlyRoot: true, want: unikernel.BootConfig{
			Directories: []string{"/dev/shm"}, Volumes: []unikernel.Volume{{Path: "/run", Size: 64 * mib}}}},
		"pod": {shares: pod, want: unikernel.BootConfig{
			Files:       files("/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev/termination-log"),
			Directories: []string{"/dev/shm"},
			Volumes:     []unikernel.Volume{copied("/var/run/secrets/kubernetes.io/serviceaccount", true, true)}}},
		"large files": {
			shares: []unikernel.SharedMount{bind("/a", mib/2, "ro"), bind("/b", mib/2+1, "ro"), bind("/c", mib/2, "rw"), bind("/d", 1, "ro")},
			want: unikernel.BootConfig{Files: files("/a", "/c"),
				Volumes: []unikernel.Volume{copied("/b", true, true), copied("/d", true, true)}}},
		"not recursive": {shares: []unikernel.SharedMount{bind("/a/", -1, "bind", "ro")},
			want: unikernel.BootConfig{Volumes: []unikernel.Volume{copied("/a", true, false)}}},
		"copies": {copies: true, shares: []unikernel.SharedMount{bind("/a", -1), bind("/b", -1, "ro", "rw"), bind("/c", 2*mib)},
			want: unikernel.BootConfig{Volumes: []unikernel.Volume{copied("/a", false, true), copied("/b", false, true), copied("/c", false, true)}}},
		"tmpfs": {mounts: []specs.Mount{ram("/a/../t", "size=1m"), ram("/u", "size=50%"), ram("/v", "ro"), ram("/w", "tmpcopyup"), ram("/proc/x"), ram("/dev/x")},
			want: unikernel.BootConfig{Directories: []string{"/w", "/dev/x"},
				Volumes: []unikernel.Volume{{Path: "/t", Size: mib, Spare: true}, {Path: "/u", Spare: true}, {Path: "/v", Spare: true, ReadOnly: true}}}},
	} {
		a := app()
		a.Shares, a.Spec.Mounts = tt.shares, tt.mounts
		a.Spec.Root = &specs.Root{Readonly: tt.readOnlyRoot}
		got, err := New(Config{CopyWritable: tt.copies, MaxVolume: limit}).Configure(a)
		got.Args, got.Env, got.Cwd, got.Options = nil, nil, "", nil
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s:\n%+v, %v, want\n%+v", name, got, err, tt.want)
		}
	}
}

func TestMountsRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		share unikernel.SharedMount
		mount specs.Mount
		ro    bool
		want  error
		words []string
	}{
		"writable directory": {share: bind("/data", -1, "rbind"), want: unikernel.ErrNotImplemented,
			words: []string{"/src", "/data", "read-only", "guest=linux", `nanos.writable_binds = "copy"`}},
		"large writable file":  {share: bind("/data", 2<<20), want: unikernel.ErrNotImplemented, words: []string{"/src", "/data", "file", "copies"}},
		"bind over the root":   {share: bind("/.", -1, "ro"), want: unikernel.ErrInvalid},
		"bind in /proc":        {share: bind("/proc/meminfo", 1, "ro"), want: unikernel.ErrNotImplemented, words: []string{"/proc/meminfo", "the kernel's own"}},
		"bind at /dev/null":    {share: bind("/dev/null", 1, "ro"), want: unikernel.ErrNotImplemented},
		"bind at /sys":         {share: bind("/sys", -1, "ro"), want: unikernel.ErrNotImplemented},
		"tmpfs over the root":  {mount: ram("/"), want: unikernel.ErrInvalid},
		"size in words":        {mount: ram("/t", "size=big"), want: unikernel.ErrInvalid, words: []string{"/t", "size=big"}},
		"size with two units":  {mount: ram("/t", "size=1km"), want: unikernel.ErrInvalid},
		"size too large":       {mount: ram("/t", "size=9999999999999g"), want: unikernel.ErrInvalid},
		"negative size":        {mount: ram("/t", "size=-1"), want: unikernel.ErrInvalid},
		"tmpcopyup, read-only": {mount: ram("/t", "tmpcopyup"), ro: true, want: unikernel.ErrNotImplemented},
	} {
		a := app()
		a.Spec.Root = &specs.Root{Readonly: tt.ro}
		if tt.share.Mount.Destination != "" {
			a.Shares = []unikernel.SharedMount{tt.share}
		}
		if tt.mount.Destination != "" {
			a.Spec.Mounts = []specs.Mount{tt.mount}
		}
		_, err := New(Config{}).Configure(a)
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
			continue
		}
		for _, w := range tt.words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v; does not say %q", name, err, w)
			}
		}
	}
}

// TestPlanWithVolumes: a machine with many disks is one that has room for them.
func TestPlanWithVolumes(t *testing.T) {
	a := app()
	for _, want := range []string{"microvm", "microvm", "microvm", "microvm", "microvm", "q35"} {
		got, err := New(Config{Machine: MachineAuto}).Plan(a, unikernel.Resources{MemoryMiB: 256, VCPUs: 1})
		if err != nil || got.Machine != want {
			t.Errorf("%d volumes: %s, %v; want %s", len(a.Shares), got.Machine, err, want)
		}
		a.Shares = append(a.Shares, bind("/d", -1, "ro"))
	}
}
