package main

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"

	"containerd-shim-uni/builder"
	"containerd-shim-uni/config"
	"containerd-shim-uni/libvirt"
	"containerd-shim-uni/shim/cgroup"
	"containerd-shim-uni/shim/frontend"
	"containerd-shim-uni/shim/network"
	"containerd-shim-uni/shim/sandbox"
	"containerd-shim-uni/shim/task"
	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/linux"
	"containerd-shim-uni/unikernel/nanos"
	"containerd-shim-uni/unikernel/prebuilt"

	"github.com/containerd/log"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// host puts the parts of the runtime together for one shim. Drivers are kept:
// a process has one embedded libvirt.
type host struct {
	namespace, group string

	mu      sync.Mutex
	drivers map[libvirtConfig]*libvirt.Driver
	closed  bool // a driver opened now would leave its directory
}

// libvirtConfig is what two containers must agree on to share a driver.
type libvirtConfig struct {
	config.Libvirt
	stateDir string
}

func newHost(namespace, group string) frontend.Host {
	return &host{namespace: namespace, group: group, drivers: map[libvirtConfig]*libvirt.Driver{}}
}

// Machines implements sandbox.Host. The driver outlives the request.
func (h *host) Machines(ctx context.Context, cfg config.Config) (sandbox.Machines, error) {
	d, err := h.open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return d, nil
}

// open opens the driver that a configuration asks for.
func (h *host) open(ctx context.Context, cfg config.Config) (*libvirt.Driver, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, fmt.Errorf("%w: the shim is ending", unikernel.ErrUnavailable)
	}
	key := libvirtConfig{cfg.Libvirt, cfg.Storage.StateDir}
	if d := h.drivers[key]; d != nil {
		return d, nil
	}
	go func() { _, _ = systemCalls() }() // takes a millisecond, libvirt many
	d, err := libvirt.Open(context.WithoutCancel(ctx), h.options(cfg))
	if err != nil {
		return nil, err
	}
	h.drivers[key] = d
	return d, nil
}

// warm lets libvirt find out about QEMU, which takes seconds.
func warm(ctx context.Context, cfg config.Config) error {
	return libvirt.Warm(ctx, libvirt.Options{CapsCache: cfg.Libvirt.CapsCache, Log: log.L.Infof})
}

// options are the driver's. An embedded one has a directory of its own for each group.
func (h *host) options(cfg config.Config) libvirt.Options {
	return libvirt.Options{
		URI: cfg.Libvirt.URI, Accel: cfg.Libvirt.Accel, CapsCache: cfg.Libvirt.CapsCache,
		EmbedRoot: task.ShimDir(cfg.Storage, h.namespace, h.group),
		Shared:    []string{cfg.Storage.DataDir},
		Strict:    cfg.Libvirt.Isolation == config.IsolationStrict,
		Within:    network.Within,
		Filter:    systemCalls,
		Log:       log.L.Infof,
	}
}

// Disks implements task.Host.
func (h *host) Disks(cfg config.Config) (task.Disks, error) {
	return builder.Open(cfg.Storage.DataDir, builder.Options{MaxSize: cfg.Cache.MaxSize, Log: log.L.Warnf})
}

// Declared implements task.Host.
func (h *host) Declared(cfg config.Config, spec *specs.Spec, fs unikernel.Rootfs) (config.Config, error) {
	if !cfg.TakesDeclared() {
		return cfg, nil
	}
	d, ok, err := prebuilt.Declared(spec, fs.Find)
	if !ok || err != nil {
		return cfg, err
	}
	return cfg.Declared(d.Source, config.Image(d.Config))
}

// Guest implements task.Host.
func (h *host) Guest(cfg config.Config, emulated bool) (unikernel.Guest, error) {
	switch cfg.Guest {
	case linux.Name:
	case nanos.Name:
		return nanos.New(nanos.Config{
			Kernel: resolve(cfg.Nanos.Kernel), Machine: cfg.Nanos.Machine,
			CopyWritable: cfg.Nanos.WritableBinds == config.WritableCopy, MaxVolume: cfg.Nanos.VolumeMaxSize,
		}), nil
	case prebuilt.Name:
		return prebuilt.New(prebuilt.Config(cfg.Image)), nil
	default:
		return nil, fmt.Errorf("guest %q: %w", cfg.Guest, unikernel.ErrNotImplemented)
	}
	return linux.New(linux.Config{
		Kernel: cfg.Linux.Kernel, Initrd: cfg.Linux.Initrd, Machine: cfg.Linux.Machine,
		ExtraCmdline: cfg.Linux.KernelArgs, Emulated: emulated,
	}), nil
}

// resolve follows symbolic links, so that a container gets all files of one
// kernel although "uni kernel use" may choose another meanwhile. What is missing is
// left to those who open it.
func resolve(dir string) string {
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		return real
	}
	return dir
}

// Cgroup implements sandbox.Host.
func (h *host) Cgroup(record string, at cgroup.Place, limits cgroup.Limits) (sandbox.Group, error) {
	return cgroup.Create(record, at, limits)
}

// Networks implements sandbox.Host.
func (h *host) Networks(cfg config.Config) sandbox.Networks {
	return network.Linker{AllowSpoofing: !cfg.Network.SourceFilter}
}

// CleanUp implements frontend.Host.
func (h *host) CleanUp(ctx context.Context, cfg config.Config, name string) error {
	return libvirt.CleanUp(ctx, h.options(cfg), name)
}

// Close implements frontend.Host.
func (h *host) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for key, d := range h.drivers {
		if err := d.Close(); err != nil {
			return err
		}
		delete(h.drivers, key)
	}
	return nil
}
