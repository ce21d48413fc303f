package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func allAllowed() Config {
	c := Default()
	c.Annotations.Allowed = annotationNames
	return c
}

func TestAnnotate(t *testing.T) {
	base := allAllowed()
	base.Linux.KernelArgs = append(make([]string, 0, 8), "panic=0") // spare room must not be shared
	tests := []struct {
		name string
		set  map[string]string
		want func(*Config)
	}{
		{"none", nil, func(*Config) {}},
		{"foreign", map[string]string{"io.kubernetes.cri.container-type": "x", "io.containerd.unix": "y", "": ""}, func(*Config) {}},
		{"guest", map[string]string{"guest": "linux"}, func(c *Config) { c.GuestNamed = true }},
		{"memory", map[string]string{"memory": "1GiB"}, func(c *Config) { c.Machine.MemoryMiB, c.Pod.MemoryMiB = 1024, 1024 }},
		{"vcpus", map[string]string{"vcpus": "3"}, func(c *Config) { c.Machine.VCPUs, c.Pod.VCPUs = 3, 3 }},
		{"machine", map[string]string{"machine": "pc"}, func(c *Config) { c.Linux.Machine = "pc" }},
		{"machine of nanos", map[string]string{"guest": "nanos", "machine": "q35"}, func(c *Config) {
			c.Guest, c.GuestNamed, c.Nanos.Machine = "nanos", true, "q35"
		}},
		{"image", map[string]string{"guest": "image", "kernel": "/k", "machine": "pc"}, func(c *Config) {
			c.Guest, c.GuestNamed, c.Image.Kernel, c.Image.Machine = "image", true, "/k", "pc"
		}},
		{"image implied", map[string]string{"kernel": "/k", "initrd": "/i", "disk": "/d", "cmdline": "{args} x", "machine": "q35", "exit": "41=0, 42=255", "virtio": "modern", "rng": "off"}, func(c *Config) {
			c.Guest, c.GuestNamed, c.Image = "image", true, Image{"/k", "/i", "/d", "{args} x", "q35", "41=0, 42=255", "modern", "off"}
		}},
		{"timeout", map[string]string{"boot-timeout": "5s"}, func(c *Config) { c.Machine.BootTimeout = 5 * time.Second }},
		{"writable", map[string]string{"writable-size": "1GiB"}, func(c *Config) { c.Rootfs.WritableSize = 1 << 30 }},
		{"kernel-args", map[string]string{"kernel-args": " a=1  b "}, func(c *Config) { c.Linux.KernelArgs = []string{"panic=0", "a=1", "b"} }},
		{"kernel-args empty", map[string]string{"kernel-args": ""}, func(*Config) {}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			set := map[string]string{}
			for name, v := range tt.set {
				if tt.name != "foreign" {
					name = AnnotationPrefix + name
				}
				set[name] = v
			}
			want := base.clone()
			tt.want(&want)
			got, err := base.Annotate(set)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
	if len(base.Linux.KernelArgs) != 1 || base.Linux.KernelArgs[:2][1] != "" {
		t.Errorf("Annotate wrote into the original's slice: %q", base.Linux.KernelArgs[:2])
	}
}

func TestAnnotateErrors(t *testing.T) {
	tests := []struct {
		name, annotation, value string
		want                    string
	}{
		{"unknown", "memroy", "1", "annotation io.containerd.uni.memroy is unknown, known are: io.containerd.uni.guest, io.containerd.uni.memory,"},
		{"unknown, odd", "x\ny", "1", `annotation "io.containerd.uni.x\ny" is unknown`},
		{"empty", "", "1", "is unknown"},
		{"guest", "guest", "osv", `annotation io.containerd.uni.guest: "osv" is not one of: linux, nanos`},
		{"relative kernel", "kernel", "boot/k", `annotation io.containerd.uni.kernel: "boot/k" must be an absolute path`},
		{"kernel above the root", "kernel", "/../k", `without ".."`},
		{"exit", "exit", "128=0", `"128=0" is neither one of auto, raw, ignore, nor pairs`},
		{"exit status", "exit", "41=0,1=256", "a container's, 0 to 255"},
		{"virtio", "virtio", "0.9", `"0.9" is not one of: auto, modern, legacy`},
		{"long command line", "cmdline", strings.Repeat("x", 5000), "at most 4096 are allowed"},
		{"memory without unit", "memory", "512", `annotation io.containerd.uni.memory: "512" is not a size`},
		{"memory not whole", "memory", "512KiB", `"512KiB" is not a whole number of MiB`},
		{"memory small", "memory", "1MiB", "1MiB is out of range: 8MiB to 16TiB are allowed"},
		{"memory overflow", "memory", "9999999999TiB", "is not a size"},
		{"vcpus", "vcpus", "two", `"two" is not an integer from 1 to 255`},
		{"vcpus range", "vcpus", "256", "256 is out of range: 1 to 255 are allowed"},
		{"machine", "machine", "virt", `"virt" is not one of: microvm, q35, pc`},
		{"boot-timeout", "boot-timeout", "x", `"x" is not a duration`},
		{"writable-size", "writable-size", "1B", "1B is out of range: 64MiB to 8TiB are allowed"},
		{"kernel-args", "kernel-args", "a\x01", `"a\x01" must be one word of printable ASCII`},
		{"kernel-args length", "kernel-args", strings.Repeat("abc ", 400), "at most 1024 are allowed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := allAllowed().Annotate(map[string]string{AnnotationPrefix + tt.annotation: tt.value})
			if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error is %v, want %q of ErrInvalid", err, tt.want)
			}
			if !reflect.DeepEqual(c, Config{}) {
				t.Errorf("a failed Annotate returned %+v", c)
			}
		})
	}
}

func TestAnnotateReportsAll(t *testing.T) {
	_, err := Default().Annotate(map[string]string{
		AnnotationPrefix + "vcpus": "0", AnnotationPrefix + "memory": "x", AnnotationPrefix + "nope": "",
	})
	for _, want := range []string{"uni.memory:", "uni.nope is unknown", "uni.vcpus:"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v lacks %q", err, want)
		}
	}
}

func TestAnnotateAllowed(t *testing.T) {
	for _, name := range annotationNames {
		valid := map[string]string{"guest": "linux", "memory": "64MiB", "vcpus": "1", "machine": "pc",
			"boot-timeout": "5s", "writable-size": "1GiB", "kernel-args": "quiet", "exit": "raw", "virtio": "auto", "rng": "on"}[name]
		set := map[string]string{AnnotationPrefix + name: valid}
		if _, err := allAllowed().Annotate(set); err != nil {
			t.Errorf("%s is listed and refused: %v", name, err)
		}
		c := Default()
		c.Annotations.Allowed = nil
		_, err := c.Annotate(set)
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "annotations.allowed") {
			t.Errorf("%s is not listed: error %v", name, err)
			continue
		}
		// What the error says to add is what the file takes.
		_, rest, _ := strings.Cut(err.Error(), "is not allowed: add ")
		advised, _, _ := strings.Cut(rest, " to the")
		file := filepath.Join(t.TempDir(), "config.toml")
		if err := os.WriteFile(file, []byte("[annotations]\nallowed = ["+advised+"]\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if c, err = Load(file); err != nil || len(c.Annotations.Allowed) != 1 || c.Annotations.Allowed[0] != name {
			t.Errorf("with %s in annotations.allowed: %v, %v", advised, c.Annotations.Allowed, err)
		}
	}
	c := Default()
	c.Annotations.Allowed = []string{"memory", "vcpus"}
	if _, err := c.Annotate(map[string]string{AnnotationPrefix + "guest": "linux"}); err == nil || !strings.Contains(err.Error(), `["memory", "vcpus"]`) {
		t.Errorf("the error does not list what is allowed as the file has it: %v", err)
	}
	if _, err := Default().Annotate(map[string]string{AnnotationPrefix + "kernel-args": "init=/bin/sh"}); err == nil {
		t.Error("kernel arguments are allowed by default")
	}
}

func TestParseSize(t *testing.T) {
	tests := []struct {
		in   string
		want int64 // -1: an error
	}{
		{"0B", 0}, {"1B", 1}, {"1KiB", 1024}, {"20GiB", 20 << 30}, {"3 TiB", 3 << 40}, {" 7 MiB", 7 << 20},
		{"8388607TiB", 8388607 << 40}, {"8388608TiB", -1}, {"9223372036854775808B", -1},
		{"", -1}, {"B", -1}, {"10", -1}, {"10GB", -1}, {"1.5GiB", -1}, {"-1MiB", -1}, {"+1MiB", -1}, {"1iB", -1}, {"1GiBB", -1}, {"1MiB ", -1},
	}
	for _, tt := range tests {
		got, err := ParseSize(tt.in)
		if tt.want < 0 {
			if err == nil {
				t.Errorf("ParseSize(%q) = %d, want an error", tt.in, got)
			}
			continue
		}
		if err != nil || got != tt.want {
			t.Errorf("ParseSize(%q) = %d, %v, want %d", tt.in, got, err, tt.want)
		}
		if again, err := ParseSize(Size(got).String()); err != nil || again != got {
			t.Errorf("ParseSize(%q) = %d, %v, want %d", Size(got), again, err, got)
		}
	}
}

func FuzzAnnotate(f *testing.F) {
	f.Add("memory", "512MiB")
	f.Add("vcpus", "2")
	f.Add("kernel-args", "a b=c")
	f.Add("boot-timeout", "1m30s")
	f.Add("other", "\n")
	f.Fuzz(func(t *testing.T, name, value string) {
		c, err := allAllowed().Annotate(map[string]string{AnnotationPrefix + name: value})
		if err != nil {
			if !errors.Is(err, ErrInvalid) || strings.ContainsAny(err.Error(), "\n\x00") {
				t.Errorf("error %q", err)
			}
			return
		}
		if again, err := Parse("again", []byte(c.TOML())); err != nil || !reflect.DeepEqual(again, c) {
			t.Errorf("%+v reads back as %+v, %v: an annotation passed what the file refuses", c, again, err)
		}
	})
}

func TestForGuest(t *testing.T) {
	named := Default()
	named.GuestNamed = true
	strict := Default()
	strict.Annotations.Allowed = []string{"memory"}
	for name, tt := range map[string]struct {
		c           Config
		guest, want string // want: part of the error
	}{
		"the default":   {Default(), "linux", ""},
		"follows":       {Default(), "nanos", ""},
		"named":         {named, "linux", ""},
		"contradiction": {named, "nanos", `take an image for linux`},
		"forbidden":     {strict, "nanos", "annotations.allowed does not list guest"},
		"unknown":       {Default(), "dos", "known are linux"},
	} {
		got, err := tt.c.ForGuest(tt.guest)
		switch {
		case tt.want == "" && (err != nil || got.Guest != tt.guest):
			t.Errorf("%s: %q, %v", name, got.Guest, err)
		case tt.want != "" && (!errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestImageAnnotations: what is about the guest "image" is no silent no-op for
// another guest.
func TestImageAnnotations(t *testing.T) {
	named := allAllowed()
	named.Guest, named.GuestNamed = "nanos", true
	chosen := allAllowed()
	chosen.Guest, chosen.GuestNamed = "image", true
	fixed := allAllowed()
	fixed.Annotations.Allowed = imageNames
	for name, tt := range map[string]struct {
		c    Config
		set  map[string]string
		want string // part of the error
	}{
		"another named":          {named, map[string]string{"kernel": "/k"}, `annotation io.containerd.uni.kernel is for the guest "image", and the guest nanos is asked for: add the annotation io.containerd.uni.guest=image`},
		"another by annotation":  {allAllowed(), map[string]string{"disk": "/d", "guest": "linux"}, "the guest linux is asked for"},
		"named and annotated":    {named, map[string]string{"kernel": "/k", "guest": "image"}, ""},
		"chosen by the file":     {chosen, map[string]string{"cmdline": "x"}, ""},
		"containers may not":     {fixed, map[string]string{"kernel": "/k"}, "the guest linux is asked for"},
		"forged lines of a log":  {allAllowed(), map[string]string{"kernel": "/k", "guest": "a\nb"}, `the guest "a\nb" is asked for`},
		"another, and none ours": {named, nil, ""},
	} {
		set := map[string]string{}
		for n, v := range tt.set {
			set[AnnotationPrefix+n] = v
		}
		_, err := tt.c.Annotate(set)
		if (err == nil) != (tt.want == "") || err != nil && (!errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDeclared: what an image says of itself counts as annotations do, after them.
func TestDeclared(t *testing.T) {
	image := Image{Kernel: "/k", Cmdline: "{args}", Machine: "pc", Exit: "raw"}
	taken := Image{Kernel: "/k", Cmdline: "{args}", Machine: "pc", Exit: "raw", Virtio: "auto", RNG: "auto"}
	with := func(change func(*Config)) Config {
		c := Default()
		change(&c)
		return c
	}
	for name, tt := range map[string]struct {
		c    Config
		want func(*Config) // nil for an image whose word is nothing
		err  string
	}{
		"by itself":       {c: Default(), want: func(c *Config) { c.Image = taken }},
		"the guest named": {c: with(func(c *Config) { c.Guest, c.GuestNamed = GuestImage, true }), want: func(c *Config) { c.Image = taken }},
		"annotated": {c: with(func(c *Config) { c.Image.Cmdline, c.Image.Machine = "x", "q35" }),
			want: func(c *Config) { c.Image.Kernel, c.Image.Exit = "/k", "raw" }},
		"another guest named":  {c: with(func(c *Config) { c.GuestNamed = true })},
		"another kernel named": {c: with(func(c *Config) { c.Image.Kernel = "/other" })},
		"a disk named":         {c: with(func(c *Config) { c.Image.Disk = "/other" })},
		"no guest allowed":     {c: with(func(c *Config) { c.Annotations.Allowed = []string{"kernel"} }), err: `/x asks for the guest "image", and guest is not allowed`},
		"no kernel allowed": {c: with(func(c *Config) { c.Annotations.Allowed = []string{"guest", "cmdline"} }),
			err: `the image's /x: machine is not allowed: add "machine" to the configuration key annotations.allowed, which is ["guest", "cmdline"]; kernel is not allowed`},
	} {
		got, err := tt.c.Declared("/x", image)
		if tt.err != "" {
			if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		want := tt.c.clone()
		if tt.want != nil {
			want.Guest, want.GuestNamed = GuestImage, true
			tt.want(&want)
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v, want %+v", name, got, err, want)
		}
	}
	if _, err := Default().Declared("/x", Image{Kernel: "../k"}); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), `kernel: "../k" must be an absolute path`) {
		t.Errorf("a path: %v", err)
	}
	if !reflect.DeepEqual(*new(Image).fields()["machine"], "") || len(new(Image).fields()) != reflect.TypeFor[Image]().NumField() {
		t.Error("a field of Image has no annotation")
	}
}

// TestMachineOfImage: it is what its kernel needs.
func TestMachineOfImage(t *testing.T) {
	c, err := Default().Annotate(map[string]string{AnnotationPrefix + "kernel": "/k", AnnotationPrefix + "machine": "pc"})
	if err != nil || c.Image.Machine != "pc" {
		t.Errorf("%+v, %v", c.Image, err)
	}
	if _, err := Default().Annotate(map[string]string{AnnotationPrefix + "machine": "pc"}); !errors.Is(err, ErrInvalid) {
		t.Errorf("of another guest: %v", err)
	}
}
