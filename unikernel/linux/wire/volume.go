package wire

// TypeVolume is the type of a mount whose Source is a path below the volumes: the
// name of one, and the way in it.
const TypeVolume = "volume"

// VolumeKind says what becomes of a volume.
type VolumeKind uint64

// Kinds of Volume.
const (
	VolumeFiles  VolumeKind = iota // it holds Files and nothing else
	VolumeMemory                   // it is a file system of its own, and has at least Files
	VolumeGone                     // there is none of the name
)

// Volume is the host's request to make a volume what it says, before a container
// that mounts it or later.
type Volume struct {
	Name string
	Kind VolumeKind
	// Options are those of the tmpfs of VolumeMemory.
	Options []string
	Files   []VolumeFile
}

// VolumeFile is one file of a volume, after the directory that it is in.
type VolumeFile struct {
	// Path is relative to the volume; the top is ".".
	Path string
	// Mode is st_mode: of a directory, a regular file or a symbolic link.
	Mode, UID, GID uint32
	// Data is the content, or a link's target.
	Data string
}

// Encode returns the payload.
func (v Volume) Encode() []byte {
	var e Encoder
	e.String(v.Name)
	e.Uint(uint64(v.Kind))
	e.Strings(v.Options)
	e.Uint(uint64(len(v.Files)))
	for _, f := range v.Files {
		e.String(f.Path)
		for _, n := range []uint32{f.Mode, f.UID, f.GID} {
			e.Uint(uint64(n))
		}
		e.String(f.Data)
	}
	return e.Bytes()
}

// DecodeVolume reads the payload of Volume.
func DecodeVolume(b []byte) (Volume, error) {
	d := NewDecoder(b)
	v := Volume{Name: d.String(), Kind: VolumeKind(d.Uint()), Options: d.Strings(), Files: list(d, func() VolumeFile {
		return VolumeFile{Path: d.String(), Mode: d.Uint32(), UID: d.Uint32(), GID: d.Uint32(), Data: d.String()}
	})}
	if v.Kind > VolumeGone {
		d.fail()
	}
	return v, d.Err()
}
