package prebuilt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/elffile"
)

// kind is whose kernel one is, as far as that matters here.
type kind struct {
	// Name is how its authors call it.
	name string
	// signs are strings of which its file has one.
	signs []string
	// machine is the machine type it boots on, where that is another than its
	// protocol's.
	machine string
	// exit is the mapping of what it writes to isa-debug-exit, see statuses.
	exit string
	// reports are what it says of the program's end.
	reports []report
	// deaf says that it takes no notice of the power button, by which it is asked to
	// stop.
	deaf bool
	// random says that it has a driver for virtio's source of randomness, or does not
	// complain about one without.
	random bool
}

// solo5 is told by a note, see solo5Target.
var solo5 = kind{name: "Solo5", exit: "41=0", reports: solo5Reports, deaf: true}

// kinds are the others, in the order in which they are looked for. The signs are of
// their sources: the linker scripts of Unikraft (.uk_bootinfo), banners, and import
// paths that Go keeps.
//
// What they do at their ends: Unikraft writes 42 after a crash, and 41 when ACPI's
// power-off did not work (plat/kvm/x86); Solo5 always 41, before it powers off
// (bindings/virtio/platform.c). OSv finds no clock without an HPET or KVM's, and
// microvm has neither.
var kinds = []kind{
	{name: "Unikraft", signs: []string{".uk_bootinfo", "Unikraft "}, exit: "41=0", deaf: true},
	{name: "OSv", signs: []string{"OSv v"}, machine: "q35", random: true, reports: osvReports},
	{name: "IncludeOS", signs: []string{"IncludeOS", "#include<os>"}, random: true},
	{name: "HermiTux", signs: []string{"HermiTux", "hermitux"}, random: true, deaf: true},
	{name: "HermitCore", signs: []string{"HermitCore"}, random: true, deaf: true},
	{name: "Nanos", signs: []string{"NANOS_VERSION"}, random: true},
	{name: "TamaGo", signs: []string{"github.com/usbarmory/tamago"}, random: true},
	linuxKind,
}

var (
	linuxKind = kind{name: "Linux", signs: []string{"Linux version "}, random: true}
	// unknown is anybody else's.
	unknown = kind{random: true}
)

// String is the name, or that there is none.
func (k kind) String() string {
	if k.name == "" {
		return "unknown"
	}
	return k.name
}

// Bounds of the search for signs, in bytes: of all that is read, and at a time.
const (
	maxSearched  = 64 << 20
	searchWindow = 256 << 10
)

// kindOf tells whose kernel a file is.
func kindOf(r io.ReaderAt, image *elffile.File) (kind, error) {
	if image != nil {
		if _, ok, err := solo5Target(image); ok || err != nil {
			return solo5, err
		}
	}
	const overlap = 64 // longer than any sign
	buf := make([]byte, searchWindow+overlap)
	found := len(kinds)
	for at := int64(0); at < maxSearched && found > 0; at += searchWindow {
		n, err := r.ReadAt(buf, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return kind{}, err
		}
		// The first of the table counts, wherever it is: programs are linked into
		// these kernels, and may name others.
		for i, k := range kinds[:found] {
			if slices.ContainsFunc(k.signs, func(s string) bool { return bytes.Contains(buf[:n], []byte(s)) }) {
				found = i
				break
			}
		}
		if n < len(buf) {
			break
		}
	}
	if found < len(kinds) {
		return kinds[found], nil
	}
	return unknown, nil
}

// solo5Abi is the type of Solo5's note about what a unikernel is built for, of its owner
// "Solo5" (include/elf_abi.h); its first word is one of solo5Targets.
const solo5Abi = 0x31494241

var solo5Targets = []string{"none", "hvt", "spt", "virtio", "muen", "genode", "xen"}

// solo5Target says what a Solo5 unikernel is built for; ok is false for what is none.
func solo5Target(image *elffile.File) (target string, ok bool, err error) {
	desc, ok, err := image.Note("Solo5", solo5Abi)
	if errors.Is(err, elffile.ErrFormat) || err == nil && len(desc) < 4 {
		return "", false, nil
	}
	if err != nil || !ok {
		return "", false, err
	}
	n := binary.LittleEndian.Uint32(desc)
	if int64(n) >= int64(len(solo5Targets)) {
		return fmt.Sprint(n), true, nil
	}
	return solo5Targets[n], true, nil
}

// checkSolo5 refuses a unikernel for something else than QEMU.
func checkSolo5(image *elffile.File) error {
	target, ok, err := solo5Target(image)
	if err != nil || !ok || target == "virtio" {
		return err
	}
	return fmt.Errorf("%w: it is a Solo5 unikernel for the target %s, which needs Solo5's own tender: build it for virtio (mirage configure -t virtio; with Solo5's own build the file ending in .virtio)",
		unikernel.ErrNotImplemented, target)
}
