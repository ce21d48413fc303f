package wire

// Sandbox is the host's request to set up what is the machine's: all of its
// containers have it. It comes once, before the first of them.
type Sandbox struct {
	// Clock is set before anything else.
	Clock                Clock
	Hostname, Domainname string
	// Sysctls are pairs of dotted or slashed name and value.
	Sysctls [][2]string
	// ShareTag is the virtiofs tag of the directory that holds the sources of
	// bind mounts; empty if there are none.
	ShareTag string
	Network  Network
}

// Container is the host's request to make a container: its root and its cgroup,
// not yet a process. Its mounts are made with the first one.
type Container struct {
	// ID names the container from now on; it is not 0 and is never given twice.
	ID uint32
	// Root is the serial of the disk that holds the image, Upper that of the
	// layer above it; without one it is in memory.
	Root, Upper string
	// Space is what is known of the disk Upper already, or nil.
	Space *Space
	// ReadonlyRoot mounts the root read-only after all is set up.
	ReadonlyRoot  bool
	PIDs          PIDNamespace
	Mounts        []Mount
	Devices       []Device
	MaskedPaths   []string
	ReadonlyPaths []string
	// Limits are those of its cgroup from the beginning.
	Limits Limits
}

// PIDNamespace says in which PID namespace a container's processes are.
type PIDNamespace struct {
	Kind PIDKind
	// Container is whose it is, with PIDContainer.
	Container uint32
}

// PIDKind tells PID namespaces apart.
type PIDKind uint64

// Kinds of PID namespaces.
const (
	PIDOwn       PIDKind = iota // its own: the first process is PID 1
	PIDSandbox                  // one of all containers that ask for it, which outlasts them
	PIDContainer                // another container's, which runs
)

// Start is the host's request to start a process. As KindRun it is the first
// one of its container, which ends with it; as KindExec it is a further one.
type Start struct {
	Container uint32
	// ID names the process in Data, EOF, Credit and Exit frames.
	ID      uint32
	Process Process
}

// OptionBelow starts an option of a bind mount that names a path below it where
// something else is mounted on the host.
const OptionBelow = "x-uni.below="

// MountOptions are the options that PID 1 knows and every kind of mount honours,
// sorted. "shared" is not among them: no bind mount can be.
var MountOptions = []string{
	"async", "atime", "bind", "defaults", "dev", "diratime", "dirsync", "exec", "iversion", "lazytime", "mand",
	"noatime", "nodev", "nodiratime", "noexec", "noiversion", "nolazytime", "nomand", "norelatime",
	"nostrictatime", "nosuid", "nosymfollow", "private", "rbind", "relatime", "rnodev", "rnoexec", "rnosuid",
	"ro", "rprivate", "rro", "rslave", "runbindable", "rw", "slave", "strictatime", "suid", "sync",
	"unbindable",
}

// Mount is one entry of the specification's mounts, in their order.
type Mount struct {
	Destination string
	// Type is a file system's, or "bind": then Source names an entry of the
	// shared directory.
	Type, Source string
	// Options are the specification's, as mount(8) spells them.
	Options []string
}

// AllDevices is the type of an entry that stands for all of the machine's own
// devices; the kernel's name for them in rules of cgroups.
const AllDevices = 'a'

// Device is a node to create under /dev.
type Device struct {
	Path string
	// Type is 'c', 'b' or 'p', as mknod(1) takes it, or AllDevices: then the rest
	// is empty.
	Type         byte
	Major, Minor uint32
	Mode         uint32
	UID, GID     uint32
	// Serial is that of the disk which a block device is, in place of the numbers;
	// ReadOnly says that it is not written.
	Serial   string
	ReadOnly bool
}

// Process is what one process is started with.
type Process struct {
	Args, Env []string
	Cwd       string
	UID, GID  uint32
	Groups    []uint32
	Umask     uint32
	// Caps are bit sets, bit n being capability number n.
	Caps            Caps
	NoNewPrivileges bool
	// Filter is the program of a seccomp filter, as seccomp(2) takes it on x86-64,
	// and FilterFlags are that call's; without one there is no filter.
	Filter      string
	FilterFlags uint64
	Rlimits     []Rlimit
	// OOMScoreAdj is applied if SetOOMScoreAdj.
	SetOOMScoreAdj bool
	OOMScoreAdj    int64
	// Terminal gives the process a pseudo terminal of Width by Height
	// characters; 0 leaves the kernel's default.
	Terminal      bool
	Width, Height uint16
	// Stdin, Stdout and Stderr say which streams the host carries. The others
	// are /dev/null.
	Stdin, Stdout, Stderr bool
}

// Caps are the capability sets of a process.
type Caps struct {
	Bounding, Effective, Permitted, Inheritable, Ambient uint64
}

// Rlimit is one resource limit; Resource is the kernel's number of it.
type Rlimit struct {
	Resource   uint32
	Soft, Hard uint64
}

// Encode returns the payload.
func (s Start) Encode() []byte {
	var e Encoder
	e.Uint(uint64(s.Container))
	e.Uint(uint64(s.ID))
	s.Process.encode(&e)
	return e.Bytes()
}

// DecodeStart reads the payload of Start.
func DecodeStart(b []byte) (Start, error) {
	d := NewDecoder(b)
	s := Start{Container: d.Uint32(), ID: d.Uint32(), Process: decodeProcess(d)}
	return s, d.Err()
}

// Encode returns the payload.
func (s Sandbox) Encode() []byte {
	var e Encoder
	e.Int(s.Clock.Behind)
	e.String(s.Hostname)
	e.String(s.Domainname)
	e.Uint(uint64(len(s.Sysctls)))
	for _, kv := range s.Sysctls {
		e.String(kv[0])
		e.String(kv[1])
	}
	e.String(s.ShareTag)
	s.Network.encode(&e)
	return e.Bytes()
}

// DecodeSandbox reads the payload of Sandbox.
func DecodeSandbox(b []byte) (Sandbox, error) {
	d := NewDecoder(b)
	s := Sandbox{
		Clock:    Clock{Behind: d.Int()},
		Hostname: d.String(), Domainname: d.String(),
		Sysctls:  list(d, func() [2]string { return [2]string{d.String(), d.String()} }),
		ShareTag: d.String(),
		Network:  decodeNetwork(d),
	}
	return s, d.Err()
}

// Encode returns the payload.
func (c Container) Encode() []byte {
	var e Encoder
	e.Uint(uint64(c.ID))
	e.String(c.Root)
	e.String(c.Upper)
	e.Bool(c.Space != nil)
	if c.Space != nil {
		c.Space.encode(&e)
	}
	e.Bool(c.ReadonlyRoot)
	e.Uint(uint64(c.PIDs.Kind))
	e.Uint(uint64(c.PIDs.Container))
	e.Uint(uint64(len(c.Mounts)))
	for _, m := range c.Mounts {
		e.String(m.Destination)
		e.String(m.Type)
		e.String(m.Source)
		e.Strings(m.Options)
	}
	e.Uint(uint64(len(c.Devices)))
	for _, v := range c.Devices {
		e.String(v.Path)
		for _, n := range []uint32{uint32(v.Type), v.Major, v.Minor, v.Mode, v.UID, v.GID} {
			e.Uint(uint64(n))
		}
		e.String(v.Serial)
		e.Bool(v.ReadOnly)
	}
	e.Strings(c.MaskedPaths)
	e.Strings(c.ReadonlyPaths)
	c.Limits.encode(&e)
	return e.Bytes()
}

// DecodeContainer reads the payload of Container.
func DecodeContainer(b []byte) (Container, error) {
	d := NewDecoder(b)
	c := Container{
		ID: d.Uint32(), Root: d.String(), Upper: d.String(),
		Space: optional(d, func() Space { return decodeSpace(d) }), ReadonlyRoot: d.Bool(),
		PIDs: PIDNamespace{Kind: PIDKind(d.Uint()), Container: d.Uint32()},
		Mounts: list(d, func() Mount {
			return Mount{Destination: d.String(), Type: d.String(), Source: d.String(), Options: d.Strings()}
		}),
		Devices: list(d, func() Device {
			return Device{Path: d.String(), Type: byte(d.Uint32()), Major: d.Uint32(), Minor: d.Uint32(),
				Mode: d.Uint32(), UID: d.Uint32(), GID: d.Uint32(), Serial: d.String(), ReadOnly: d.Bool()}
		}),
		MaskedPaths: d.Strings(), ReadonlyPaths: d.Strings(),
		Limits: decodeLimits(d),
	}
	if c.ID == 0 || c.PIDs.Kind > PIDContainer {
		d.fail()
	}
	return c, d.Err()
}

func (p Process) encode(e *Encoder) {
	e.Strings(p.Args)
	e.Strings(p.Env)
	e.String(p.Cwd)
	e.Uint(uint64(p.UID))
	e.Uint(uint64(p.GID))
	e.Uint(uint64(len(p.Groups)))
	for _, g := range p.Groups {
		e.Uint(uint64(g))
	}
	e.Uint(uint64(p.Umask))
	for _, c := range []uint64{p.Caps.Bounding, p.Caps.Effective, p.Caps.Permitted, p.Caps.Inheritable, p.Caps.Ambient} {
		e.Uint(c)
	}
	e.Bool(p.NoNewPrivileges)
	e.String(p.Filter)
	e.Uint(p.FilterFlags)
	e.Uint(uint64(len(p.Rlimits)))
	for _, r := range p.Rlimits {
		e.Uint(uint64(r.Resource))
		e.Uint(r.Soft)
		e.Uint(r.Hard)
	}
	e.Bool(p.SetOOMScoreAdj)
	e.Int(p.OOMScoreAdj)
	e.Bool(p.Terminal)
	e.Uint(uint64(p.Width))
	e.Uint(uint64(p.Height))
	e.Bool(p.Stdin)
	e.Bool(p.Stdout)
	e.Bool(p.Stderr)
}

func decodeProcess(d *Decoder) Process {
	return Process{
		Args: d.Strings(), Env: d.Strings(), Cwd: d.String(),
		UID: d.Uint32(), GID: d.Uint32(), Groups: list(d, d.Uint32), Umask: d.Uint32(),
		Caps: Caps{Bounding: d.Uint(), Effective: d.Uint(), Permitted: d.Uint(),
			Inheritable: d.Uint(), Ambient: d.Uint()},
		NoNewPrivileges: d.Bool(), Filter: d.String(), FilterFlags: d.Uint(),
		Rlimits: list(d, func() Rlimit {
			return Rlimit{Resource: d.Uint32(), Soft: d.Uint(), Hard: d.Uint()}
		}),
		SetOOMScoreAdj: d.Bool(), OOMScoreAdj: d.Int(),
		Terminal: d.Bool(), Width: uint16(d.Uint32()), Height: uint16(d.Uint32()),
		Stdin: d.Bool(), Stdout: d.Bool(), Stderr: d.Bool(),
	}
}
