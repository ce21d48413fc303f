package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestDefaultFileDocumentsEveryKeyWithItsDefault(t *testing.T) {
	commented := regexp.MustCompile(`(?m)^#([a-z_]+ = )`)
	uncommented := commented.ReplaceAllString(DefaultFile(), "$1")
	c, err := Parse("config.toml", []byte(uncommented))
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.GuestNamed = true // as every key is
	if !reflect.DeepEqual(c, want) {
		t.Errorf("uncommented file is %+v, want the default %+v", c, want)
	}

	values, _, problem := decode([]byte(uncommented))
	if problem != nil {
		t.Fatal(problem)
	}
	for _, k := range keys {
		section, name, dotted := strings.Cut(k.name, ".")
		table, _ := values[section].(map[string]any)
		if !dotted {
			name, table = k.name, values
		}
		if _, ok := table[name]; !ok {
			t.Errorf("config.toml does not show key %s", k.name)
		}
	}
	for _, name := range annotationNames {
		if !strings.Contains(DefaultFile(), name) {
			t.Errorf("config.toml does not mention the annotation %s", name)
		}
	}

	c, err = Parse("config.toml", []byte(DefaultFile()))
	if err != nil || !reflect.DeepEqual(c, Default()) {
		t.Errorf("the file as installed is %+v, %v, want the default", c, err)
	}
}

func TestDefaultFileNamesTheInstalledKernel(t *testing.T) {
	old := LibDir
	t.Cleanup(func() { LibDir = old })
	LibDir = "/opt/uni/lib/uni"
	if want := `#kernel = "/opt/uni/lib/uni/linux/vmlinux"`; !strings.Contains(DefaultFile(), want) {
		t.Errorf("no line %s", want)
	}
	if got := Default().Linux.Initrd; got != "/opt/uni/lib/uni/linux/initrd.img" {
		t.Errorf("initrd is %s", got)
	}
}

func TestNanosKernelIsBelowTheDataDirectory(t *testing.T) {
	for in, want := range map[string]string{
		"":                              "/var/lib/uni/kernels/nanos/current",
		"storage.data_dir = '/srv/uni'": "/srv/uni/kernels/nanos/current",
		"nanos.kernel = '/my/nanos'\nstorage.data_dir = '/srv/uni'":                          "/my/nanos",
		"nanos.kernel = '/var/lib/uni/kernels/nanos/current'\nstorage.data_dir = '/srv/uni'": "/var/lib/uni/kernels/nanos/current",
	} {
		c, err := Parse("f", []byte(in))
		if err != nil || c.Nanos.Kernel != want {
			t.Errorf("%q: nanos.kernel is %s, %v, want %s", in, c.Nanos.Kernel, err, want)
		}
	}
}

func TestTOMLReadsBack(t *testing.T) {
	want := Default()
	want.Machine.BootTimeout = 1500 * time.Millisecond
	want.Linux.KernelArgs = []string{`dyndbg="x"`, "a=\\"}
	want.Linux.Kernel = `/boot/é "quoted"`
	want.Annotations.Allowed = []string{}
	want.Network.SourceFilter = false
	got, err := Parse("shown", []byte(want.TOML()))
	if err != nil {
		t.Fatalf("%v in\n%s", err, want.TOML())
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestParse(t *testing.T) {
	_, err := Parse("f", []byte(`
guest = "linux"
machine.vcpus = 4
[linux]
kernel_args = ["loglevel=7", "panic=0"]
[libvirt]
uri = "qemu:///embed?root=/run/uni-libvirt"
[machine]
memory_mib = 0x200
boot_timeout = "2m"
[cache]
max_size = "512 MiB"
[annotations]
allowed = ["kernel-args"]
`))
	if err == nil || !strings.Contains(err.Error(), "line 8") {
		t.Fatalf("a table defined twice: %v", err)
	}

	c, err := Parse("f", []byte(`
libvirt = {uri = "qemu:///embed?root=/run/l", accel = "tcg"}
[machine]
memory_mib = 0x200
boot_timeout = "2m"
[linux]
kernel_args = ["loglevel=7", "panic=0"]
[cache]
max_size = "512 MiB"
`))
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Libvirt.URI, want.Libvirt.Accel = "qemu:///embed?root=/run/l", "tcg"
	want.Machine.MemoryMiB, want.Machine.BootTimeout = 512, 2*time.Minute
	want.Linux.KernelArgs = []string{"loglevel=7", "panic=0"}
	want.Cache.MaxSize = 512 << 20
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v, want %+v", c, want)
	}
}

func TestParseErrors(t *testing.T) {
	long := strings.Repeat("x", 600)
	tests := []struct {
		name, in string
		want     []string // substrings of the error, in order
	}{
		{"syntax", "guest = \n", []string{"f: line 1: "}},
		{"unknown key", "gest = 1", []string{`line 1: unknown key gest, known are: guest, [machine], [pod], [linux]`}},
		{"unknown key below", "\n[machine]\nmemory = 1", []string{`line 3: unknown key machine.memory, known are: memory_mib, vcpus,`}},
		{"unknown table", "[machin]\nvcpus=1", []string{`line 1: unknown key machin,`}},
		{"quoted dot", `"machine.vcpus" = 1`, []string{`line 1: unknown key "machine.vcpus",`}},
		{"control in key", `"a\nb" = 1`, []string{`unknown key "a\nb"`}},
		{"table is a value", "machine = 3", []string{`line 1: machine must be a table, written as [machine]`}},
		{"table is an array", "[[machine]]\nvcpus=1", []string{`machine must be a table`}},
		{"key is a table", "[guest]\nx=1", []string{`line 1: guest: want a string, have a table`}},
		{"several, by line", "guest = 'osv'\n[machine]\nvcpus = 0\nfoo = 1\n[linux]\nmachine = 'isapc'", []string{
			`line 1: guest: "osv" is not one of: linux, nanos`,
			`line 3: machine.vcpus: 0 is out of range: 1 to 255 are allowed`,
			`line 4: unknown key machine.foo`,
			`line 6: linux.machine: "isapc" is not one of: microvm, q35, pc`,
		}},
		{"inline table", "machine = { vcpus = 1,\n\n memory_mib = 'x' }", []string{`line 3: machine.memory_mib: want an integer from 8 to 16777216, have a string`}},
		{"float", "[machine]\nvcpus = 1.5", []string{`have a floating-point number`}},
		{"memory", "[machine]\nmemory_mib = 7", []string{`machine.memory_mib: 7 is out of range`}},
		{"overhead", "[machine]\noverhead_mib = 0", []string{`32 to 1048576`}},
		{"duration unit", "[machine]\nboot_timeout = '30'", []string{`"30" is not a duration`}},
		{"duration kind", "[machine]\nboot_timeout = 30", []string{`want a duration such as "30s", have an integer`}},
		{"duration range", "[machine]\nboot_timeout = '0s'", []string{`0s is out of range: 1s to 1h0m0s are allowed`}},
		{"relative path", "[linux]\nkernel = 'vmlinux'", []string{`"vmlinux" must be an absolute path`}},
		{"unclean path", "[linux]\ninitrd = '/a/../b'", []string{`without ".."`}},
		{"root as path", "[storage]\ndata_dir = '/'", []string{`must be a path below /`}},
		{"control in path", "[storage]\ndata_dir = \"/a\\u0007\"", []string{`unprintable`}},
		{"state_dir", "[storage]\nstate_dir = '/" + long + "'", []string{`has 601 bytes: at most 25`}},
		{"remote uri", "[libvirt]\nuri = 'qemu://host/system'", []string{`want qemu:///embed, qemu:///embed?root=DIRECTORY or qemu:///system`}},
		{"other driver", "[libvirt]\nuri = 'lxc:///system'", []string{`not a libvirt URI this runtime can use`}},
		{"session uri", "[libvirt]\nuri = 'qemu:///session'", []string{`not a libvirt URI this runtime can use`}},
		{"uri option", "[libvirt]\nuri = 'qemu:///system?socket=/x'", []string{`not a libvirt URI this runtime can use`}},
		{"uri with two options", "[libvirt]\nuri = 'qemu:///embed?root=/x&y=1'", []string{`not a libvirt URI this runtime can use`}},
		{"uri with a relative root", "[libvirt]\nuri = 'qemu:///embed?root=x'", []string{`"x" must be an absolute path`}},
		{"isolation", "[libvirt]\nisolation = 'off'", []string{`"off" is not one of: auto, strict`}},
		{"accel", "[libvirt]\naccel = 'hvf'", []string{`"hvf" is not one of: auto, kvm, tcg`}},
		{"size unit", "[cache]\nmax_size = '20GB'", []string{`"20GB" is not a size: want a whole number with B, KiB`}},
		{"size number", "[cache]\nmax_size = 20", []string{`want a size such as "20GiB", have an integer`}},
		{"not a truth value", "[network]\nsource_filter = 'no'", []string{`want true or false, have`}},
		{"size range", "[rootfs]\nwritable_size = '1MiB'", []string{`1MiB is out of range: 64MiB to 8TiB are allowed`}},
		{"kernel argument with a space", "[linux]\nkernel_args = ['a b']", []string{`"a b" must be one word`}},
		{"kernel argument that is no string", "[linux]\nkernel_args = ['a', 1]", []string{`element 2 is an integer`}},
		{"kernel arguments too long", "[linux]\nkernel_args = ['" + long + "', '" + long + "']", []string{`1202 bytes in all: at most 1024`}},
		{"kernel_args string", "[linux]\nkernel_args = 'a'", []string{`want an array of strings, have a string`}},
		{"annotation", "[annotations]\nallowed = ['gest']", []string{`"gest" is not one of: guest, memory, vcpus`}},
		{"date", "guest = 2020-01-01", []string{`have a date or time`}},
		{"boolean", "guest = true", []string{`have a boolean`}},
		{"not UTF-8", "guest = \"\xff\"", []string{"line 1: "}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := Parse("f", []byte(tt.in))
			var e *Error
			if !errors.As(err, &e) || !errors.Is(err, ErrInvalid) {
				t.Fatalf("error is %v, want an *Error of ErrInvalid", err)
			}
			rest := err.Error()
			for _, want := range tt.want {
				_, after, found := strings.Cut(rest, want)
				if !found {
					t.Errorf("error %q lacks %q", rest, want)
				}
				rest = after
			}
			if !reflect.DeepEqual(c, Config{}) {
				t.Errorf("a failed Parse returned %+v", c)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "c.toml")
	if err := os.WriteFile(file, []byte("[machine]\nvcpus = 2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(dir, "missing.toml")

	t.Setenv(EnvPath, "")
	if c, err := Load(file); err != nil || c.Machine.VCPUs != 2 {
		t.Errorf("Load(file) = %+v, %v", c, err)
	}
	if _, err := Load(missing); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), missing) {
		t.Errorf("a named file that is missing: %v", err)
	}
	if _, err := Load(dir); err == nil {
		t.Error("a directory was read")
	}

	t.Setenv(EnvPath, file)
	if c, err := Load(""); err != nil || c.Machine.VCPUs != 2 {
		t.Errorf("Load(\"\") with %s = %+v, %v", EnvPath, c, err)
	}
	t.Setenv(EnvPath, missing)
	if _, err := Load(""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s names a missing file: %v", EnvPath, err)
	}

	if err := os.WriteFile(file, make([]byte, maxFileBytes+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(file); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "larger than 1MiB") {
		t.Errorf("a huge file: %v", err)
	}
}

func TestPath(t *testing.T) {
	t.Setenv(EnvPath, "")
	if got := Path(""); got != DefaultPath {
		t.Errorf("Path(\"\") = %s", got)
	}
	t.Setenv(EnvPath, "/e")
	if got := Path(""); got != "/e" {
		t.Errorf("Path(\"\") = %s with %s", got, EnvPath)
	}
	if got := Path("/x"); got != "/x" {
		t.Errorf("Path(/x) = %s", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(DefaultFile()))
	f.Add([]byte(Default().TOML()))
	f.Add([]byte("guest = {a.b = 1}\n[[machine]]\n"))
	f.Add([]byte("machine = { vcpus = 1, memory_mib = [1, {x = 2}] }"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("f", data)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("error %v is no *Error", err)
			}
			for _, p := range e.Problems {
				if p.Line < 1 || p.Text == "" || strings.ContainsAny(p.Text, "\n\x00") {
					t.Errorf("problem %+v", p)
				}
			}
			return
		}
		again, err := Parse("again", []byte(c.TOML()))
		if err != nil || !reflect.DeepEqual(again, c) {
			t.Errorf("%+v reads back as %+v, %v", c, again, err)
		}
	})
}
