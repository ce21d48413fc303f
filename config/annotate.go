package config

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// AnnotationPrefix is what the names of this runtime's annotations begin with.
const AnnotationPrefix = "io.containerd.uni."

// annotationNames lists what is known, without the prefix.
var annotationNames = []string{"guest", "memory", "vcpus", "machine", "boot-timeout", "writable-size", "kernel-args", "kernel", "initrd", "disk", "cmdline", "exit", "virtio", "rng"}

// imageNames are those of annotationNames about the guest "image".
var imageNames = []string{"kernel", "initrd", "disk", "cmdline", "exit", "virtio", "rng"}

// KnownAnnotations returns the full names of the annotations that exist.
func KnownAnnotations() []string { return withPrefix(annotationNames) }

// Annotate returns the configuration as a container's annotations change it:
//
//	io.containerd.uni.guest          replaces guest
//	io.containerd.uni.memory         replaces machine.memory_mib and pod.memory_mib; a size, "512MiB"
//	io.containerd.uni.vcpus          replaces machine.vcpus and pod.vcpus
//	io.containerd.uni.machine        replaces linux.machine, nanos.machine or image.machine, of the guest that boots
//	io.containerd.uni.boot-timeout   replaces machine.boot_timeout
//	io.containerd.uni.writable-size  replaces rootfs.writable_size
//	io.containerd.uni.kernel-args    appended to linux.kernel_args; words separated by spaces
//	io.containerd.uni.kernel         replaces image.kernel; so do initrd, disk, cmdline, exit, virtio and rng their keys
//
// The last are about the guest "image", and it boots if nobody names a
// guest. They only name what is in the container's own image, which is as little
// trusted as its program. What is needed with them is allowed as kernel is: machine
// of the guest "image".
//
// memory and vcpus, like the keys they replace, matter only where the
// container has no such limit of its own. Annotations without the prefix are
// other people's. An unknown one, one that annotations.allowed does not list,
// and a bad value are errors wrapping ErrInvalid; all are reported at once.
func (c Config) Annotate(set map[string]string) (Config, error) {
	out := c.clone()
	var problems []string
	if err := out.implyGuest(set); err != nil {
		problems = append(problems, err.Error())
	}
	for _, full := range slices.Sorted(maps.Keys(set)) {
		name, ours := strings.CutPrefix(full, AnnotationPrefix)
		if !ours {
			continue
		}
		if err := out.annotate(c.Annotations.Allowed, name, set[full]); err != nil {
			problems = append(problems, fmt.Sprintf("annotation %s%s", quoteIfOdd(full), err))
		}
	}
	if len(problems) > 0 {
		return Config{}, fmt.Errorf("%s: %w", strings.Join(problems, "; "), ErrInvalid)
	}
	return out, nil
}

// implyGuest lets the guest "image" boot if an annotation about it is there.
func (c *Config) implyGuest(set map[string]string) error {
	name := ""
	for _, n := range imageNames {
		if _, ok := set[AnnotationPrefix+n]; ok {
			name = AnnotationPrefix + n
			break
		}
	}
	guest, named := set[AnnotationPrefix+"guest"]
	if name == "" || (named && guest == GuestImage) || (!named && c.Guest == GuestImage) {
		return nil
	}
	if !named && !c.GuestNamed && slices.Contains(c.Annotations.Allowed, "guest") {
		c.Guest, c.GuestNamed = GuestImage, true
		return nil
	}
	if !named {
		guest = c.Guest
	}
	return fmt.Errorf("annotation %s is for the guest %q, and the guest %s is asked for: add the annotation %sguest=%[2]s, or leave this one out",
		name, GuestImage, quoteIfOdd(guest), AnnotationPrefix)
}

// annotate applies one annotation. Its error's text continues the name.
func (c *Config) annotate(allowed []string, name, value string) error {
	if !slices.Contains(annotationNames, name) {
		return fmt.Errorf(" is unknown, known are: %s", strings.Join(KnownAnnotations(), ", "))
	}
	if !slices.Contains(allowed, name) && !(name == "machine" && c.Guest == GuestImage && slices.Contains(allowed, "kernel")) {
		// The names as that key takes them, without the prefix.
		return fmt.Errorf(" is not allowed: add %q to the configuration key annotations.allowed, which is [%s]", name, quoted(allowed))
	}
	if err := c.setAnnotation(name, value); err != nil {
		return fmt.Errorf(": %w", err)
	}
	return nil
}

func (c *Config) setAnnotation(name, value string) error {
	switch name {
	case "guest":
		return c.setKey("guest", value)
	case "memory":
		return c.setMemory(value)
	case "vcpus":
		return c.setVCPUs(value)
	case "machine":
		// "guest" sorts before it, and what implies one is known: see implyGuest.
		return c.setKey(c.Guest+".machine", value)
	case "boot-timeout":
		return c.setKey("machine.boot_timeout", value)
	case "writable-size":
		return c.setKey("rootfs.writable_size", value)
	case "kernel-args":
		return c.addKernelArgs(value)
	default:
		return c.setKey("image."+name, value) // imageNames
	}
}

// setKey treats an annotation's value as the string of a key of the file.
func (c *Config) setKey(name, value string) error {
	k, ok := findKey(pathOf(name))
	if !ok {
		return fmt.Errorf("no key %s", name)
	}
	return k.set(c, value)
}

func (c *Config) setMemory(s string) error {
	n, err := ParseSize(s)
	if err != nil {
		return err
	}
	const mib = 1 << 20
	if n%mib != 0 {
		return fmt.Errorf("%q is not a whole number of MiB", s)
	}
	if err := checkRange(n, minMemoryMiB*mib, maxMemoryMiB*mib, func(n int64) string { return Size(n).String() }); err != nil {
		return err
	}
	c.Machine.MemoryMiB = int(n / mib)
	c.Pod.MemoryMiB = c.Machine.MemoryMiB
	return nil
}

func (c *Config) setVCPUs(s string) error {
	n, err := strconv.Atoi(s)
	if err != nil {
		return fmt.Errorf("%q is not an integer from %d to %d", s, minVCPUs, maxVCPUs)
	}
	if err := checkRange(n, minVCPUs, maxVCPUs, strconv.Itoa); err != nil {
		return err
	}
	c.Machine.VCPUs, c.Pod.VCPUs = n, n
	return nil
}

func (c *Config) addKernelArgs(s string) error {
	args := append(c.Linux.KernelArgs, strings.Fields(s)...)
	if err := checkKernelArgs(args); err != nil {
		return err
	}
	c.Linux.KernelArgs = args
	return nil
}

// quoted is the inside of a list as the configuration file has it.
func quoted(names []string) string {
	q := make([]string, len(names))
	for i, n := range names {
		q[i] = strconv.Quote(n)
	}
	return strings.Join(q, ", ")
}

func withPrefix(names []string) []string {
	full := make([]string, len(names))
	for i, n := range names {
		full[i] = AnnotationPrefix + n
	}
	return full
}

// quoteIfOdd keeps a container's text from forging lines of a log.
func quoteIfOdd(s string) string {
	if q := strconv.Quote(s); q != `"`+s+`"` {
		return q
	}
	return s
}
