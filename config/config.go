package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// DefaultPath is where Load looks when neither the caller nor the environment
// names a file.
const DefaultPath = "/etc/uni/config.toml"

// EnvPath is the environment variable that replaces DefaultPath.
const EnvPath = "UNI_CONFIG"

// LibDir is where the guests' kernels are installed. The build sets it to
// PREFIX/lib/uni with -ldflags "-X containerd-shim-uni/config.LibDir=…".
var LibDir = builtinLibDir

const builtinLibDir = "/usr/local/lib/uni"

// maxFileBytes bounds what Load reads; a real file has about 4 KiB.
const maxFileBytes = 1 << 20

// ErrInvalid is what every error about a wrong file, key, value or annotation
// wraps.
var ErrInvalid = errors.New("invalid configuration")

// Config is the configuration of one container's runtime. Treat it as
// immutable: copies share the slices.
type Config struct {
	// Guest is the kind of unikernel that boots, one of Guests. GuestNamed says
	// that the file or an annotation names it: else it is a default, which
	// gives way to what an image needs.
	Guest      string
	GuestNamed bool

	Machine     Machine
	Pod         Pod
	Linux       Linux
	Nanos       Nanos
	Image       Image
	Libvirt     Libvirt
	Storage     Storage
	Cache       Cache
	Rootfs      Rootfs
	Network     Network
	Annotations Annotations
}

// ForGuest returns the configuration for an image that is made for one guest. An
// unknown guest, and one that contradicts what is named, is an error that wraps
// ErrInvalid; so is one that differs from the default where containers may not
// choose.
func (c Config) ForGuest(guest string) (Config, error) {
	switch {
	case guest == c.Guest:
		return c, nil
	case !slices.Contains(Guests(), guest) || guest == GuestImage:
		return Config{}, fmt.Errorf("the image is a disk for the guest %q, known are %s: %w", guest, strings.Join(Guests(), ", "), ErrInvalid)
	case c.GuestNamed:
		return Config{}, fmt.Errorf("the image is for the guest %q, and %q is asked for by the annotation %sguest or the configuration key guest: leave that out, or take an image for %[2]s: %[4]w",
			guest, c.Guest, AnnotationPrefix, ErrInvalid)
	case !slices.Contains(c.Annotations.Allowed, "guest"):
		return Config{}, fmt.Errorf("the image is for the guest %q, and containers may not choose one: the configuration key annotations.allowed does not list guest: %w", guest, ErrInvalid)
	}
	out := c.clone()
	out.Guest = guest
	return out, nil
}

// Declared returns the configuration for an image that says itself what the guest
// "image" boots of it; source says where it does, for errors. It is as if annotations
// said so: where containers may not choose, it is an error that wraps ErrInvalid. But
// the file and real annotations have the last word, as each other does: where they
// name another guest, or what boots, the image's own word is nothing.
func (c Config) Declared(source string, i Image) (Config, error) {
	if !c.TakesDeclared() {
		return c, nil
	}
	out := c.clone()
	if !c.GuestNamed {
		if err := out.annotate(c.Annotations.Allowed, "guest", GuestImage); err != nil {
			return Config{}, fmt.Errorf("the image's %s asks for the guest %q, and guest%w: %w", source, GuestImage, err, ErrInvalid)
		}
	}
	said, builtin := i.fields(), Default().Image
	var problems []string
	for _, name := range append([]string{"machine"}, imageNames...) {
		value, now := *said[name], *out.Image.fields()[name]
		if value == "" || now != *builtin.fields()[name] {
			continue
		}
		if err := out.annotate(c.Annotations.Allowed, name, value); err != nil {
			problems = append(problems, name+err.Error())
		}
	}
	if len(problems) > 0 {
		return Config{}, fmt.Errorf("the image's %s: %s: %w", source, strings.Join(problems, "; "), ErrInvalid)
	}
	return out, nil
}

// Guests lists the values Config.Guest can have.
func Guests() []string { return []string{GuestLinux, GuestNanos, GuestImage} }

// The guests.
const (
	GuestLinux = "linux"
	GuestNanos = "nanos"
	GuestImage = "image"
)

// Nanos configures the guest "nanos".
type Nanos struct {
	// Kernel is the absolute path of the directory with boot.img and kernel.img.
	// Where no file says otherwise, it is the default of those installed, see
	// Storage.NanosDir.
	Kernel string
	// Machine is QEMU's machine type, "microvm" or "q35"; "auto" chooses.
	Machine string
	// WritableBinds is WritableRefuse or WritableCopy: what happens to a bind
	// mount of a directory that may be written to, which the guest cannot have.
	WritableBinds string
	// VolumeMaxSize is how many bytes one bind mount may have to copy.
	VolumeMaxSize int64
}

// Values of Nanos.WritableBinds.
const (
	WritableRefuse = "refuse"
	WritableCopy   = "copy"
)

// Image configures the guest "image", whose kernel is a file of the container's
// image.
type Image struct {
	// Kernel, Initrd and Disk are absolute paths in the image's root; empty ones
	// are not there.
	Kernel, Initrd, Disk string
	// Cmdline is the template of the kernel's command line; empty stands for
	// the process's arguments.
	Cmdline string
	// Machine is QEMU's machine type: "microvm", "q35", "pc", or "auto" for what
	// fits the kernel.
	Machine string
	// Exit is what becomes of statuses that the guest writes to QEMU's device for
	// them: "auto", "raw", "ignore", or pairs, "41=0,42=1".
	Exit string
	// Virtio is "auto", "modern" or "legacy", RNG "auto", "on" or "off".
	Virtio, RNG string
}

// TakesDeclared says whether what an image says of what boots counts, see Declared.
func (c Config) TakesDeclared() bool {
	return (c.Guest == GuestImage || !c.GuestNamed) && c.Image.Kernel == "" && c.Image.Disk == ""
}

// fields are the strings of i by the annotations that replace them.
func (i *Image) fields() map[string]*string {
	return map[string]*string{"kernel": &i.Kernel, "initrd": &i.Initrd, "disk": &i.Disk, "cmdline": &i.Cmdline, "machine": &i.Machine,
		"exit": &i.Exit, "virtio": &i.Virtio, "rng": &i.RNG}
}

// Machine sizes the virtual machine of a container whose specification does
// not.
type Machine struct {
	// MemoryMiB is the guest's RAM in MiB where the container has no memory limit.
	MemoryMiB int
	// VCPUs is the number of virtual CPUs where the container has neither a
	// CPU quota nor a CPU set.
	VCPUs int
	// OverheadMiB is host memory in MiB granted beyond the guest's RAM: the
	// container's cgroup is limited to the sum.
	OverheadMiB int
	// Template is TemplateOff or TemplateCopy.
	Template string
	// BootTimeout is how long a guest may take from power-on until it answers.
	BootTimeout time.Duration
}

// Whether machines go on from the saved state of one that has booted: never, or each
// with a copy of it.
const (
	TemplateOff  = "off"
	TemplateCopy = "copy"
)

// Pod sizes the machine of a pod where the sum of its containers' limits does not.
type Pod struct {
	// MemoryMiB is the guest's RAM in MiB.
	MemoryMiB int
	// VCPUs is the number of virtual CPUs.
	VCPUs int
}

// Linux configures the guest "linux".
type Linux struct {
	// Kernel and Initrd are absolute paths of files of the host.
	Kernel, Initrd string
	// Machine is QEMU's machine type: "microvm", "q35" or "pc".
	Machine string
	// KernelArgs is appended to the kernel's command line, one argument an
	// element.
	KernelArgs []string
}

// Libvirt says how machines are run.
type Libvirt struct {
	// URI is the libvirt connection, local and of the QEMU driver.
	URI string
	// Accel is "auto", "kvm" or "tcg".
	Accel string
	// CapsCache is the directory where probed capabilities of QEMU are kept
	// and shared between containers.
	CapsCache string
	// Isolation is IsolationAuto or IsolationStrict.
	Isolation string
}

// What becomes of machines on a host that cannot give each QEMU a user and a view
// of the host's files of its own: they start all the same, or do not.
const (
	IsolationAuto   = "auto"
	IsolationStrict = "strict"
)

// Storage holds the directories of the runtime.
type Storage struct {
	// StateDir holds a container's sockets; it is gone after a reboot.
	StateDir string
	// DataDir holds the cache and the containers' disks, on one file system.
	DataDir string
	// MinFree is how many bytes containers leave free where DataDir is.
	MinFree int64
}

// CurrentKernel is the name, below NanosDir, of the kernel that boots unless
// nanos.kernel names another: a symbolic link.
const CurrentKernel = "current"

// NanosDir is where "uni kernel install nanos" puts kernels, a directory for
// each version.
func (s Storage) NanosDir() string { return filepath.Join(s.DataDir, "kernels", "nanos") }

// CurrentNanos is the default of nanos.kernel.
func (s Storage) CurrentNanos() string { return filepath.Join(s.NanosDir(), CurrentKernel) }

// Cache bounds the images that are kept for the next container.
type Cache struct {
	// MaxSize is in bytes, counted as allocated blocks.
	MaxSize int64
}

// Rootfs configures a container's root file system.
type Rootfs struct {
	// WritableSize is the virtual size in bytes of the layer that takes what
	// the container writes.
	WritableSize int64
}

// Network configures how machines are joined to network namespaces.
type Network struct {
	// SourceFilter drops frames of a machine whose source address is not its
	// interface's.
	SourceFilter bool
}

// Annotations says what a container's annotations may change.
type Annotations struct {
	// Allowed holds names of KnownAnnotations, without the prefix.
	Allowed []string
}

// Default returns the configuration without any file.
func Default() Config {
	storage := Storage{StateDir: "/run/uni", DataDir: "/var/lib/uni", MinFree: 256 << 20}
	return Config{
		Guest: "linux",
		Machine: Machine{
			MemoryMiB:   256,
			VCPUs:       1,
			OverheadMiB: 256,
			BootTimeout: time.Minute, Template: TemplateCopy,
		},
		Pod: Pod{MemoryMiB: 2048, VCPUs: 2},
		Linux: Linux{
			Kernel:     LibDir + "/linux/vmlinux",
			Initrd:     LibDir + "/linux/initrd.img",
			Machine:    "microvm",
			KernelArgs: []string{},
		},
		Nanos: Nanos{Kernel: storage.CurrentNanos(), Machine: "auto", WritableBinds: WritableRefuse, VolumeMaxSize: 1 << 30},
		Image: Image{Machine: "auto", Exit: "auto", Virtio: "auto", RNG: "auto"},
		Libvirt: Libvirt{
			URI:       "qemu:///embed",
			Accel:     "auto",
			CapsCache: "/var/lib/uni/libvirt/cache",
			Isolation: IsolationAuto,
		},
		Storage:     storage,
		Cache:       Cache{MaxSize: 20 << 30},
		Rootfs:      Rootfs{WritableSize: 10 << 30},
		Network:     Network{SourceFilter: true},
		Annotations: Annotations{Allowed: []string{"guest", "memory", "vcpus", "kernel", "initrd", "disk", "cmdline", "exit", "virtio", "rng"}},
	}
}

// Load reads the file at path over the defaults. An empty path means the file
// named by the environment variable UNI_CONFIG, or else DefaultPath. Only
// DefaultPath may be missing: that means the defaults. The error is an *Error
// for a file with wrong contents.
func Load(path string) (Config, error) {
	path = Path(path)
	data, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) && path == DefaultPath && os.Getenv(EnvPath) == "" {
		return Default(), nil
	}
	if err != nil {
		return Config{}, fmt.Errorf("read configuration: %w", err)
	}
	return Parse(path, data)
}

// Path returns the file that Load(path) reads.
func Path(path string) string {
	if path != "" {
		return path
	}
	if env := os.Getenv(EnvPath); env != "" {
		return env
	}
	return DefaultPath
}

// Parse decodes a file's contents over the defaults. The name is for errors,
// which are of type *Error.
func Parse(name string, data []byte) (Config, error) {
	values, lines, problem := decode(data)
	if problem != nil {
		return Config{}, &Error{File: name, Problems: []Problem{*problem}}
	}
	c := Default()
	c.Nanos.Kernel = "" // no file can say so
	problems := apply(&c, values, lines)
	if len(problems) > 0 {
		return Config{}, &Error{File: name, Problems: problems}
	}
	if c.Nanos.Kernel == "" {
		c.Nanos.Kernel = c.Storage.CurrentNanos()
	}
	return c, nil
}

// clone returns a copy that shares no slice with c.
func (c Config) clone() Config {
	c.Linux.KernelArgs = slices.Clone(c.Linux.KernelArgs)
	c.Annotations.Allowed = slices.Clone(c.Annotations.Allowed)
	return c
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFileBytes {
		return nil, fmt.Errorf("%s: larger than %s: %w", path, Size(maxFileBytes), ErrInvalid)
	}
	return data, nil
}
