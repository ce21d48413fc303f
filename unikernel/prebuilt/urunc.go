package prebuilt

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"containerd-shim-uni/unikernel"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// uruncFile and uruncPrefix are where urunc looks for what boots (its
// pkg/unikontainers/config.go, of which also the names and the encoding of values are).
const (
	uruncFile   = "/urunc.json"
	uruncPrefix = "com.urunc.unikernel."
)

// uruncNames are what it knows there.
var uruncNames = []string{"unikernelType", "unikernelVersion", "binary", "cmdline", "hypervisor", "initrd", "block", "blkMntPoint", "useDMBlock"}

// uruncImage is what an image for urunc says, decoded.
type uruncImage map[string]string

// declaredToUrunc reads what is said to urunc: annotations of the specification, which
// an image's become with some clients, or the file.
func declaredToUrunc(s *specs.Spec, find Find) (Declaration, bool, error) {
	d := Declaration{Source: "annotations " + uruncPrefix + "*"}
	said := s.Annotations
	if !slices.ContainsFunc(uruncNames, func(n string) bool { return said[uruncPrefix+n] != "" }) {
		d.Source = uruncFile
		data, ok, err := read(find, uruncFile)
		if !ok || err != nil {
			return d, false, err
		}
		if err := json.Unmarshal(data, &said); err != nil {
			return d, false, fmt.Errorf("%w: %w", unikernel.ErrInvalid, err)
		}
	}
	image := uruncImage{}
	for _, name := range uruncNames {
		text, err := base64.StdEncoding.DecodeString(said[uruncPrefix+name])
		if err != nil {
			return d, false, fmt.Errorf("%w: %s%s is not in base64: %w", unikernel.ErrInvalid, uruncPrefix, name, err)
		}
		image[name] = strings.TrimSpace(string(text))
	}
	if err := image.fits(); err != nil {
		return d, false, err
	}
	d.Kernel, d.Initrd, d.Disk = inRoot(image["binary"]), inRoot(image["initrd"]), inRoot(image["block"])
	d.Machine = "pc" // whatever the kernel's protocol: so are its drivers
	var err error
	d.Cmdline, err = image.line(s)
	return d, err == nil, err
}

// inRoot is a path that may be given without its first slash.
func inRoot(name string) string {
	if name == "" {
		return ""
	}
	return path.Clean("/" + name)
}

// instead says, of the kinds of unikernels that are built for several monitors, what
// to build for QEMU.
var instead = map[string]string{
	"unikraft": `choose the platform "kvm" with QEMU as monitor (kraft build --plat qemu --arch x86_64)`,
	"mirage":   "configure it with -t virtio",
	"rumprun":  "Rumprun for Solo5 is built for hvt and spt only: take the platform hw, or the program itself with the guest \"linux\"",
}

// fits refuses what is made for something that is not here.
func (u uruncImage) fits() error {
	kind, monitor := u["unikernelType"], u["hypervisor"]
	advice := instead[kind]
	if advice == "" {
		advice = "build it for QEMU"
	}
	switch {
	case u["binary"] == "":
		return fmt.Errorf("%w: it names no binary", unikernel.ErrInvalid)
	case !slices.Contains([]string{"unikraft", "mirage", "mewz", "linux", "rumprun"}, kind):
		return fmt.Errorf("%w: unikernelType is %q, known are unikraft, mirage, mewz and linux: name what boots by annotations (io.containerd.uni.kernel, io.containerd.uni.cmdline)",
			unikernel.ErrNotImplemented, kind)
	case monitor != "qemu" && kind != "linux", kind == "rumprun":
		return fmt.Errorf("%w: the unikernel (%s) is made for the monitor %q, and machines are QEMU's, whose devices are others: %s",
			unikernel.ErrNotImplemented, kind, monitor, advice)
	case u["useDMBlock"] == "true" || u["useDMBlock"] == "1":
		return fmt.Errorf("%w: it takes the container's snapshot for its disk (useDMBlock), which needs the devmapper snapshotter and a file system in it that the kernel knows: put the files into a disk or an initial RAM disk in the image, and name that (block, initrd)",
			unikernel.ErrNotImplemented)
	case u["block"] != "" && u["blkMntPoint"] != "" && u["blkMntPoint"] != "/":
		return fmt.Errorf("%w: the disk is to be mounted on %s (blkMntPoint), which no kernel for QEMU is told: mount it in the program, and leave that out",
			unikernel.ErrNotImplemented, u["blkMntPoint"])
	}
	return nil
}

// line is the Template that gives a kernel what urunc gives it.
func (u uruncImage) line(s *specs.Spec) (string, error) {
	all, _, _ := uruncArgs(s, u["cmdline"])
	switch u["unikernelType"] {
	case "unikraft":
		return unikraftLine(s, u["unikernelVersion"], u["initrd"] != "", u["cmdline"])
	case "mirage":
		return words("--ipv4={ip}/{prefix} --ipv4-gateway={gateway}", all), nil
	case "mewz":
		return "ip={ip}/{prefix} gateway={gateway}", nil
	}
	return u.linuxLine(s), nil
}

// linuxLine is a Linux kernel's: an initial RAM disk comes before a disk, as for
// urunc.
func (u uruncImage) linuxLine(s *specs.Spec) string {
	_, program, rest := uruncArgs(s, u["cmdline"])
	line, init := "panic=-1 console=ttyS0", "init="
	switch {
	case u["initrd"] != "":
		line, init = words(line, "root=/dev/ram0 rw"), "rdinit="
	case u["block"] != "":
		line = words(line, "root=/dev/vda rw")
	}
	return words(line, "ip={ip}::{gateway}:{netmask}:{hostname}:eth0:off", "{env}", init+program, "--", rest)
}

// uruncArgs are placeholders for the process's arguments, the first and those after it.
// Without arguments a line of the image takes their place.
func uruncArgs(s *specs.Spec, line string) (all, first, rest string) {
	fields := strings.Fields(literal(line))
	if len(s.Process.Args) > 0 || len(fields) == 0 {
		return "{args}", "{arg0}", "{rest}"
	}
	return strings.Join(fields, " "), fields[0], strings.Join(fields[1:], " ")
}

// unikraftLine is the Template for Unikraft's parameters (its libparam library), which
// are others before 0.16.1: program, parameters, "--", arguments. An unknown version
// means a new one. The name server is the container's, or the one that urunc gives.
func unikraftLine(s *specs.Spec, version string, initrd bool, line string) (string, error) {
	_, program, rest := uruncArgs(s, line)
	env := ""
	if len(s.Process.Env) > 0 {
		env = "env.vars=[ {env} ]"
	}
	old, err := before(version, 0, 16, 1)
	if err != nil {
		return "", err
	}
	dns := "8.8.8.8"
	if slices.ContainsFunc(s.Mounts, func(m specs.Mount) bool { return path.Clean(m.Destination) == "/etc/resolv.conf" }) {
		dns = "{dns}"
	}
	network, files := "netdev.ip={ip}/{prefix}:{gateway}:"+dns, `vfs.fstab=[ "initrd0:/:extract:::" ]`
	if old {
		network, files = "netdev.ipv4_addr={ip} netdev.ipv4_gw_addr={gateway} netdev.ipv4_subnet_mask={netmask}", "vfs.rootfs=initrd"
	}
	if !initrd {
		files = ""
	}
	return words(program, env, network, files, "--", rest), nil
}

// words joins what is not empty.
func words(list ...string) string {
	return strings.Join(slices.DeleteFunc(list, func(s string) bool { return s == "" }), " ")
}

// before says whether a version such as "v0.16.1" or "0.17" comes before another.
func before(version string, than ...int) (bool, error) {
	number, _, _ := strings.Cut(strings.TrimPrefix(version, "v"), "-")
	if number == "" {
		return false, nil
	}
	for i, part := range strings.SplitN(number, ".", len(than)+1) {
		n, err := strconv.Atoi(part)
		if err != nil {
			return false, fmt.Errorf("%w: unikernelVersion %q is no version", unikernel.ErrInvalid, version)
		}
		if i >= len(than) || n != than[i] {
			return i < len(than) && n < than[i], nil
		}
	}
	return len(strings.Split(number, ".")) < len(than), nil
}
