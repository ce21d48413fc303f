package config

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// key is one setting of the file.
type key struct {
	name string // dotted
	// set checks a decoded TOML value and stores it.
	set func(*Config, any) error
	// text returns the value as one writes it in TOML.
	text func(*Config) string
}

// Limits of the values.
const (
	minMemoryMiB, maxMemoryMiB     = 8, 16 << 20 // the guests have higher minima of their own
	minVCPUs, maxVCPUs             = 1, 255      // 255 is what an xAPIC can name
	minOverheadMiB, maxOverheadMiB = 32, 1 << 20
	minBoot, maxBoot               = time.Second, time.Hour
	minCache, maxCache             = 0, 1 << 50
	minWritable, maxWritable       = 64 << 20, 8 << 40 // what package builder formats
	maxCmdlineBytes                = 4096              // a template; the line has at most 2047
	minVolume, maxVolume           = 0, 1 << 40        // of what is copied for each container
	maxKernelArgsBytes             = 1024              // x86's command line has 2048, the guest needs some
	// A Unix socket's path has at most 107 bytes (unix(7)). The longest that
	// embedded libvirt makes below the state directory is "/" + 20 bytes +
	// "/lib/qemu/domain-4294967295-" + 20 bytes + "/monitor.sock".
	maxStateDirBytes = 107 - 82
)

// keys is everything that can be set, in the order of config.toml.
var keys = []key{
	guestKey(),

	integer("machine.memory_mib", minMemoryMiB, maxMemoryMiB, func(c *Config) *int { return &c.Machine.MemoryMiB }),
	integer("machine.vcpus", minVCPUs, maxVCPUs, func(c *Config) *int { return &c.Machine.VCPUs }),
	integer("machine.overhead_mib", minOverheadMiB, maxOverheadMiB, func(c *Config) *int { return &c.Machine.OverheadMiB }),
	duration("machine.boot_timeout", minBoot, maxBoot, func(c *Config) *time.Duration { return &c.Machine.BootTimeout }),
	choice("machine.template", []string{TemplateOff, TemplateCopy}, func(c *Config) *string { return &c.Machine.Template }),

	integer("pod.memory_mib", minMemoryMiB, maxMemoryMiB, func(c *Config) *int { return &c.Pod.MemoryMiB }),
	integer("pod.vcpus", minVCPUs, maxVCPUs, func(c *Config) *int { return &c.Pod.VCPUs }),

	text("linux.kernel", checkPath, func(c *Config) *string { return &c.Linux.Kernel }),
	text("linux.initrd", checkPath, func(c *Config) *string { return &c.Linux.Initrd }),
	choice("linux.machine", machineTypes, func(c *Config) *string { return &c.Linux.Machine }),
	list("linux.kernel_args", checkKernelArgs, func(c *Config) *[]string { return &c.Linux.KernelArgs }),

	text("nanos.kernel", checkPath, func(c *Config) *string { return &c.Nanos.Kernel }),
	choice("nanos.machine", []string{"auto", "microvm", "q35"}, func(c *Config) *string { return &c.Nanos.Machine }),
	choice("nanos.writable_binds", []string{WritableRefuse, WritableCopy}, func(c *Config) *string { return &c.Nanos.WritableBinds }),
	size("nanos.volume_max_size", minVolume, maxVolume, func(c *Config) *int64 { return &c.Nanos.VolumeMaxSize }),

	text("image.kernel", checkImagePath, func(c *Config) *string { return &c.Image.Kernel }),
	text("image.initrd", checkImagePath, func(c *Config) *string { return &c.Image.Initrd }),
	text("image.disk", checkImagePath, func(c *Config) *string { return &c.Image.Disk }),
	text("image.cmdline", checkCmdline, func(c *Config) *string { return &c.Image.Cmdline }),
	choice("image.machine", append([]string{"auto"}, machineTypes...), func(c *Config) *string { return &c.Image.Machine }),
	text("image.exit", checkExit, func(c *Config) *string { return &c.Image.Exit }),
	choice("image.virtio", []string{"auto", "modern", "legacy"}, func(c *Config) *string { return &c.Image.Virtio }),
	choice("image.rng", []string{"auto", "on", "off"}, func(c *Config) *string { return &c.Image.RNG }),

	text("libvirt.uri", checkURI, func(c *Config) *string { return &c.Libvirt.URI }),
	choice("libvirt.accel", []string{"auto", "kvm", "tcg"}, func(c *Config) *string { return &c.Libvirt.Accel }),
	choice("libvirt.isolation", []string{IsolationAuto, IsolationStrict}, func(c *Config) *string { return &c.Libvirt.Isolation }),
	text("libvirt.caps_cache", checkPath, func(c *Config) *string { return &c.Libvirt.CapsCache }),

	text("storage.state_dir", checkStateDir, func(c *Config) *string { return &c.Storage.StateDir }),
	text("storage.data_dir", checkPath, func(c *Config) *string { return &c.Storage.DataDir }),
	size("storage.min_free", minCache, maxCache, func(c *Config) *int64 { return &c.Storage.MinFree }),

	size("cache.max_size", minCache, maxCache, func(c *Config) *int64 { return &c.Cache.MaxSize }),
	size("rootfs.writable_size", minWritable, maxWritable, func(c *Config) *int64 { return &c.Rootfs.WritableSize }),

	boolean("network.source_filter", func(c *Config) *bool { return &c.Network.SourceFilter }),

	list("annotations.allowed", checkAllowed, func(c *Config) *[]string { return &c.Annotations.Allowed }),
}

var machineTypes = []string{"microvm", "q35", "pc"}

// findKey returns the key at a path.
func findKey(p keyPath) (key, bool) {
	for _, k := range keys {
		if pathOf(k.name) == p {
			return k, true
		}
	}
	return key{}, false
}

// isSection says whether known keys are below p.
func isSection(p keyPath) bool { return len(siblings(p)) > 0 }

// siblings returns the names of keys and sections directly below a path.
func siblings(at keyPath) []string {
	prefix := ""
	if at != "" {
		prefix = strings.ReplaceAll(string(at), separator, ".") + "."
	}
	var names []string
	for _, k := range keys {
		rest, below := strings.CutPrefix(k.name, prefix)
		if !below || strings.Contains(string(at), ".") { // a quoted dot is no separator
			continue
		}
		name, _, isSection := strings.Cut(rest, ".")
		if isSection {
			name = "[" + name + "]"
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// TOML returns the whole configuration as a file that Parse reads back to the
// same value. A guest that nobody named is there as a comment.
func (c Config) TOML() string {
	var b strings.Builder
	section := ""
	for _, k := range keys {
		s, name, dotted := strings.Cut(k.name, ".")
		if !dotted {
			s, name = "", k.name
		}
		if s != section {
			fmt.Fprintf(&b, "\n[%s]\n", s)
			section = s
		}
		if k.name == "guest" && !c.GuestNamed {
			b.WriteString("#")
		}
		fmt.Fprintf(&b, "%s = %s\n", name, k.text(&c))
	}
	return b.String()
}

// guestKey also remembers that the guest was named.
func guestKey() key {
	k := choice("guest", Guests(), func(c *Config) *string { return &c.Guest })
	set := k.set
	k.set = func(c *Config, v any) error {
		err := set(c, v)
		c.GuestNamed = c.GuestNamed || err == nil
		return err
	}
	return k
}

func integer(name string, low, high int, field func(*Config) *int) key {
	return key{name, func(c *Config, v any) error {
		n, ok := v.(int64)
		if !ok {
			return fmt.Errorf("want an integer from %d to %d, have %s", low, high, kind(v))
		}
		if err := checkRange(n, int64(low), int64(high), func(n int64) string { return strconv.FormatInt(n, 10) }); err != nil {
			return err
		}
		*field(c) = int(n)
		return nil
	}, func(c *Config) string { return strconv.Itoa(*field(c)) }}
}

func boolean(name string, field func(*Config) *bool) key {
	return key{name, func(c *Config, v any) error {
		b, ok := v.(bool)
		if !ok {
			return fmt.Errorf("want true or false, have %s", kind(v))
		}
		*field(c) = b
		return nil
	}, func(c *Config) string { return strconv.FormatBool(*field(c)) }}
}

// text is a string for which check returns no error.
func text(name string, check func(string) error, field func(*Config) *string) key {
	return key{name, func(c *Config, v any) error {
		s, ok := v.(string)
		if !ok {
			return fmt.Errorf("want a string, have %s", kind(v))
		}
		if err := check(s); err != nil {
			return err
		}
		*field(c) = s
		return nil
	}, func(c *Config) string { return strconv.Quote(*field(c)) }}
}

func choice(name string, allowed []string, field func(*Config) *string) key {
	return text(name, func(s string) error { return checkChoice(s, allowed) }, field)
}

func duration(name string, low, high time.Duration, field func(*Config) *time.Duration) key {
	return key{name, func(c *Config, v any) error {
		s, ok := v.(string)
		if !ok {
			return fmt.Errorf("want a duration such as \"30s\", have %s", kind(v))
		}
		d, err := parseDuration(s)
		if err == nil {
			err = checkDuration(d, low, high)
		}
		if err != nil {
			return err
		}
		*field(c) = d
		return nil
	}, func(c *Config) string { return strconv.Quote(field(c).String()) }}
}

func size(name string, low, high int64, field func(*Config) *int64) key {
	return key{name, func(c *Config, v any) error {
		s, ok := v.(string)
		if !ok {
			return fmt.Errorf("want a size such as \"20GiB\", have %s", kind(v))
		}
		n, err := ParseSize(s)
		if err == nil {
			err = checkRange(n, low, high, func(n int64) string { return Size(n).String() })
		}
		if err != nil {
			return err
		}
		*field(c) = n
		return nil
	}, func(c *Config) string { return strconv.Quote(Size(*field(c)).String()) }}
}

func list(name string, check func([]string) error, field func(*Config) *[]string) key {
	return key{name, func(c *Config, v any) error {
		values, ok := v.([]any)
		if !ok {
			return fmt.Errorf("want an array of strings, have %s", kind(v))
		}
		words := make([]string, len(values))
		for i, v := range values {
			if words[i], ok = v.(string); !ok {
				return fmt.Errorf("want an array of strings, element %d is %s", i+1, kind(v))
			}
		}
		if err := check(words); err != nil {
			return err
		}
		*field(c) = words
		return nil
	}, func(c *Config) string {
		var quoted []string
		for _, w := range *field(c) {
			quoted = append(quoted, strconv.Quote(w))
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	}}
}

func checkPath(s string) error {
	switch {
	case !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }):
		return fmt.Errorf("%q holds unprintable characters", s)
	case !filepath.IsAbs(s):
		return fmt.Errorf("%q must be an absolute path", s)
	case filepath.Clean(s) != s || s == "/":
		return fmt.Errorf("%q must be a path below / without \"..\", \".\" or a superfluous \"/\"", s)
	}
	return nil
}

// checkImagePath accepts the path of a file in an image, or none.
func checkImagePath(s string) error {
	if s == "" {
		return nil
	}
	return checkPath(s)
}

// checkCmdline bounds a template; what it holds is the guest's to judge.
func checkCmdline(s string) error {
	if len(s) > maxCmdlineBytes {
		return fmt.Errorf("%d bytes: at most %d are allowed", len(s), maxCmdlineBytes)
	}
	if !utf8.ValidString(s) {
		return fmt.Errorf("%q is no text in UTF-8", s)
	}
	return nil
}

// checkExit accepts a word, or pairs of a status that a guest writes, 0 to 127, and a
// container's, 0 to 255.
func checkExit(s string) error {
	words := []string{"auto", "raw", "ignore"}
	if slices.Contains(words, s) {
		return nil
	}
	for pair := range strings.SplitSeq(s, ",") {
		from, to, _ := strings.Cut(strings.TrimSpace(pair), "=")
		_, err := strconv.ParseUint(from, 10, 7)
		if err == nil {
			_, err = strconv.ParseUint(to, 10, 8)
		}
		if err != nil {
			return fmt.Errorf("%q is neither one of %s, nor pairs such as \"41=0,42=1\" of a guest's status, 0 to 127, and a container's, 0 to 255", s, strings.Join(words, ", "))
		}
	}
	return nil
}

func checkStateDir(s string) error {
	if err := checkPath(s); err != nil {
		return err
	}
	if len(s) > maxStateDirBytes {
		return fmt.Errorf("%q has %d bytes: at most %d are allowed, it prefixes the paths of Unix sockets", s, len(s), maxStateDirBytes)
	}
	return nil
}

func checkURI(s string) error {
	if s == "qemu:///system" || s == "qemu:///embed" {
		return nil
	}
	root, found := strings.CutPrefix(s, "qemu:///embed?root=")
	if !found || checkOption(root) != nil || strings.ContainsAny(root, "?&#%+") {
		return fmt.Errorf("%q is not a libvirt URI this runtime can use: want qemu:///embed, qemu:///embed?root=DIRECTORY or qemu:///system", s)
	}
	return checkPath(root)
}

func checkKernelArgs(args []string) error {
	total := 0
	for _, a := range args {
		if err := checkOption(a); err != nil {
			return err
		}
		total += len(a) + 1
	}
	if total > maxKernelArgsBytes {
		return fmt.Errorf("%d bytes in all: at most %d are allowed", total, maxKernelArgsBytes)
	}
	return nil
}

// checkOption accepts one word of printable ASCII.
func checkOption(s string) error {
	if s == "" || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("%q must be one word of printable ASCII characters", s)
	}
	return nil
}

func checkAllowed(names []string) error {
	for _, n := range names {
		if err := checkChoice(n, annotationNames); err != nil {
			return err
		}
	}
	return nil
}
