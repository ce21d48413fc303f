package wire

// Run is the host's request to set up the container and start its process.
type Run struct {
	// Clock is set before anything else.
	Clock     Clock
	Container Container
	// ID names the process in Data, EOF, Credit and Exit frames.
	ID      uint32
	Process Process
}

// Exec is the host's request to start a further process.
type Exec struct {
	ID      uint32
	Process Process
}

// Container is what a container's processes share.
type Container struct {
	Hostname, Domainname string
	// Writable says the root's upper layer is on a disk; else it is in memory.
	Writable bool
	// ReadonlyRoot mounts the root read-only after all is set up.
	ReadonlyRoot bool
	// ShareTag is the virtiofs tag of the directory that holds the sources of
	// bind mounts; empty if there are none.
	ShareTag string
	// Sysctls are pairs of dotted or slashed name and value.
	Sysctls       [][2]string
	Mounts        []Mount
	Devices       []Device
	MaskedPaths   []string
	ReadonlyPaths []string
	// PidsLimit bounds the number of processes; 0 means no bound.
	PidsLimit uint64
	Network   Network
}

// OptionBelow starts an option of a bind mount that names a path below it where
// something else is mounted on the host.
const OptionBelow = "x-uni.below="

// Mount is one entry of the specification's mounts, in their order.
type Mount struct {
	Destination string
	// Type is a file system's, or "bind": then Source names an entry of the
	// shared directory.
	Type, Source string
	// Options are the specification's, as mount(8) spells them.
	Options []string
}

// Device is a node to create under /dev.
type Device struct {
	Path string
	// Type is 'c', 'b' or 'p', as mknod(1) takes it.
	Type         byte
	Major, Minor uint32
	Mode         uint32
	UID, GID     uint32
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
	Rlimits         []Rlimit
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
func (r Run) Encode() []byte {
	var e Encoder
	e.Int(r.Clock.Behind)
	r.Container.encode(&e)
	e.Uint(uint64(r.ID))
	r.Process.encode(&e)
	return e.Bytes()
}

// DecodeRun reads the payload of Run.
func DecodeRun(b []byte) (Run, error) {
	d := NewDecoder(b)
	r := Run{Clock: Clock{Behind: d.Int()}, Container: decodeContainer(d), ID: d.Uint32(), Process: decodeProcess(d)}
	return r, d.Err()
}

// Encode returns the payload.
func (x Exec) Encode() []byte {
	var e Encoder
	e.Uint(uint64(x.ID))
	x.Process.encode(&e)
	return e.Bytes()
}

// DecodeExec reads the payload of Exec.
func DecodeExec(b []byte) (Exec, error) {
	d := NewDecoder(b)
	x := Exec{ID: d.Uint32(), Process: decodeProcess(d)}
	return x, d.Err()
}

func (c Container) encode(e *Encoder) {
	e.String(c.Hostname)
	e.String(c.Domainname)
	e.Bool(c.Writable)
	e.Bool(c.ReadonlyRoot)
	e.String(c.ShareTag)
	e.Uint(uint64(len(c.Sysctls)))
	for _, s := range c.Sysctls {
		e.String(s[0])
		e.String(s[1])
	}
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
	}
	e.Strings(c.MaskedPaths)
	e.Strings(c.ReadonlyPaths)
	e.Uint(c.PidsLimit)
	c.Network.encode(e)
}

func decodeContainer(d *Decoder) Container {
	return Container{
		Hostname: d.String(), Domainname: d.String(),
		Writable: d.Bool(), ReadonlyRoot: d.Bool(),
		ShareTag: d.String(),
		Sysctls:  list(d, func() [2]string { return [2]string{d.String(), d.String()} }),
		Mounts: list(d, func() Mount {
			return Mount{Destination: d.String(), Type: d.String(), Source: d.String(), Options: d.Strings()}
		}),
		Devices: list(d, func() Device {
			return Device{Path: d.String(), Type: byte(d.Uint32()), Major: d.Uint32(), Minor: d.Uint32(),
				Mode: d.Uint32(), UID: d.Uint32(), GID: d.Uint32()}
		}),
		MaskedPaths: d.Strings(), ReadonlyPaths: d.Strings(),
		PidsLimit: d.Uint(),
		Network:   decodeNetwork(d),
	}
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
		NoNewPrivileges: d.Bool(),
		Rlimits: list(d, func() Rlimit {
			return Rlimit{Resource: d.Uint32(), Soft: d.Uint(), Hard: d.Uint()}
		}),
		SetOOMScoreAdj: d.Bool(), OOMScoreAdj: d.Int(),
		Terminal: d.Bool(), Width: uint16(d.Uint32()), Height: uint16(d.Uint32()),
		Stdin: d.Bool(), Stdout: d.Bool(), Stderr: d.Bool(),
	}
}
