package unikernel

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/netip"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// App is what one container asks to run: its OCI runtime specification and the
// names containerd gave it.
type App struct {
	// Namespace and ID are containerd's; both match its identifier grammar.
	Namespace, ID string
	// Spec is the bundle's config.json. Its Process, Mounts and Linux fields
	// are what the guest applies; Root.Path is meaningless in a guest.
	Spec *specs.Spec
	// Shares lists the bind mounts of the specification that the host shares
	// into the machine, in the order of Spec.Mounts.
	Shares []SharedMount
	// Volumes lists those of the bind mounts that show a volume of the machine, and
	// are not among Shares.
	Volumes []VolumeMount
	// Network is what the guest configures beside its loopback interface.
	Network Network
	// Nameservers are those of a resolv.conf that is mounted into the container, for
	// guests without a file system to find it in. They are there for Guest.Prepare.
	Nameservers []netip.Addr
	// PIDs is for a container of a pod.
	PIDs PIDNamespace
}

// PIDNamespace says in which PID namespace a container's processes are: with neither
// field in one of its own.
type PIDNamespace struct {
	// Pod is one of all containers that ask for it.
	Pod bool
	// Of is another container's of the same PodSession, which runs. With its end the
	// processes in its namespace end.
	Of ContainerSession
}

// SharedMount is one bind mount of the specification. Its source, a file or a
// directory, appears inside the machine's Share under Name.
type SharedMount struct {
	// Mount is the entry of Spec.Mounts.
	Mount specs.Mount
	// Name is a path in the share's directory. Several mounts may have one.
	Name string
	// Device is the device number of the source's file system on the host.
	Device uint64
	// Below lists where something else is mounted below the source and seen with
	// it, as paths from there: what is mounted in another comes after that.
	Below []string
	// Dir says that the source is a directory, Size is the length of a regular
	// file in bytes: as they were when the container was asked for.
	Dir  bool
	Size int64
}

// Resources is the part of the host a machine gets.
type Resources struct {
	// MemoryMiB is the guest's RAM in MiB.
	MemoryMiB int
	// VCPUs is the number of virtual CPUs.
	VCPUs int
}

// Rootfs is a container's root file system before it became a disk.
type Rootfs struct {
	// Key names the contents: two Rootfs with the same key hold the same
	// files. An empty key says nothing is known; its disk is never shared.
	Key string
	// Open makes the files readable under a directory of the host until close
	// is called. It is called at most once and only when a disk must be built.
	Open func(context.Context) (dir string, close func() error, err error)
	// Find opens a regular file by its path from the root and says how many bytes it
	// has, without Open. One that is not there is fs.ErrNotExist; what is something
	// else, and where a symbolic link leads on, is ErrInvalid. The container's own
	// layer is not looked at.
	Find func(name string) (ImageFile, int64, error)
	// Disk is set when the files are nothing but a disk that was made
	// beforehand: it is used as it is, and Open is not called.
	Disk *FinishedDisk
	// Layer is where the host keeps what the container changes of the files
	// of Below, apart from them; nil where they are one.
	Layer *Layer
	// Below is the root file system without Layer.
	Below *Rootfs
}

// ImageFile is a regular file of an image that is open.
type ImageFile interface {
	io.ReaderAt
	io.Closer
}

// Layer is a container's own layer of its root file system on the host. It lives
// as long as the container's snapshot.
type Layer struct {
	// Upper is the directory of the changes, as overlayfs has them: whiteouts
	// are character devices 0:0, and an opaque directory has the attribute
	// trusted.overlay.opaque.
	Upper string
	// Home is a directory beside Upper for what else must live as long. It need
	// not exist, and whoever removes Upper removes it, too.
	Home string
}

// Stdio is where a process in the guest reads and writes. A nil Stdin reads
// end-of-file at once, a nil writer discards.
type Stdio struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Key is a short name for a container that fits in a path of a Unix socket
// (108 bytes): the first 20 hexadecimal digits of the SHA-256 of namespace and id.
func Key(namespace, id string) string {
	sum := sha256.Sum256([]byte(namespace + "\x00" + id))
	return hex.EncodeToString(sum[:])[:20]
}

// DomainName is the name of a container's libvirt domain. containerd's
// identifiers never hold two separators in a row, so the name is unambiguous.
func DomainName(namespace, id string) string {
	return "uni-" + namespace + "--" + id
}
