package prebuilt

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"testing"

	"containerd-shim-uni/unikernel"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// files are those of an image.
type files map[string]string

type open struct{ *bytes.Reader }

func (open) Close() error { return nil }

func (f files) find(name string) (unikernel.ImageFile, int64, error) {
	text, ok := f[name]
	if !ok {
		return nil, 0, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return open{bytes.NewReader([]byte(text))}, int64(len(text)), nil
}

// urunc writes what urunc reads, values in base64, of "name=value".
func urunc(pairs ...string) map[string]string {
	all := map[string]string{}
	for _, p := range pairs {
		name, value, _ := strings.Cut(p, "=")
		all[uruncPrefix+name] = base64.StdEncoding.EncodeToString([]byte(value))
	}
	return all
}

func uruncJSON(pairs ...string) string {
	data, err := json.Marshal(urunc(pairs...))
	if err != nil {
		panic(err)
	}
	return string(data)
}

// TestDeclared: what images say, and the command line that comes of it for
// "/server -v 'a b'" with one variable at 10.0.0.2/20.
func TestDeclared(t *testing.T) {
	unikraft := []string{"unikernelType=unikraft", "hypervisor=qemu", "binary=/unikernel/app"}
	linux := []string{"unikernelType=linux", "hypervisor=firecracker", "binary=/vmlinuz"}
	for name, tt := range map[string]struct {
		files  files
		said   map[string]string
		want   Declaration // but for the command line
		line   string
		alone  string // the line without a network, if it is looked at
		noArgs bool
	}{
		"nothing": {files: files{"/bin/sh": "x"}},
		"our own": {files: files{File: `{"kernel": "/boot/k", "initrd": "/i", "disk": "/d", "machine": "q35", "cmdline": "x -- {rest}"}`, uruncFile: "not looked at"},
			want: Declaration{Source: File, Config: Config{Kernel: "/boot/k", Initrd: "/i", Disk: "/d", Machine: "q35"}}, line: `x -- -v "a b"`},
		"Unikraft": {files: files{uruncFile: uruncJSON(append(unikraft, "unikernelVersion=0.17.0", "initrd=initrd")...)},
			want:  Declaration{Source: uruncFile, Config: Config{Kernel: "/unikernel/app", Initrd: "/initrd", Machine: "pc"}},
			line:  `/server env.vars=[ A=1 ] netdev.ip=10.0.0.2/20:10.0.0.1:8.8.8.8 vfs.fstab=[ "initrd0:/:extract:::" ] -- -v "a b"`,
			alone: `/server env.vars=[ A=1 ] vfs.fstab=[ "initrd0:/:extract:::" ] -- -v "a b"`},
		"Unikraft before": {said: urunc(append(unikraft, "unikernelVersion=v0.15", "initrd=/initrd")...), files: files{uruncFile: "not looked at"},
			want: Declaration{Source: "annotations com.urunc.unikernel.*", Config: Config{Kernel: "/unikernel/app", Initrd: "/initrd", Machine: "pc"}},
			line: `/server env.vars=[ A=1 ] netdev.ipv4_addr=10.0.0.2 netdev.ipv4_gw_addr=10.0.0.1 netdev.ipv4_subnet_mask=255.255.240.0 vfs.rootfs=initrd -- -v "a b"`},
		"Unikraft, its own words": {files: files{uruncFile: uruncJSON(append(unikraft, "cmdline=app {x} y")...)}, noArgs: true,
			want: Declaration{Source: uruncFile, Config: Config{Kernel: "/unikernel/app", Machine: "pc"}}, alone: `app env.vars=[ A=1 ] -- {x} y`},
		"Mirage": {files: files{uruncFile: uruncJSON("unikernelType=mirage", "hypervisor=qemu", "binary=/m", "block=/d")},
			want: Declaration{Source: uruncFile, Config: Config{Kernel: "/m", Disk: "/d", Machine: "pc"}},
			line: `--ipv4=10.0.0.2/20 --ipv4-gateway=10.0.0.1 /server -v "a b"`, alone: `/server -v "a b"`},
		"Mewz": {files: files{uruncFile: uruncJSON("unikernelType=mewz", "hypervisor=qemu", "binary=/m")},
			want: Declaration{Source: uruncFile, Config: Config{Kernel: "/m", Machine: "pc"}}, line: `ip=10.0.0.2/20 gateway=10.0.0.1`},
		"Linux with a disk": {files: files{uruncFile: uruncJSON(append(linux, "block=/d", "blkMntPoint=/")...)},
			want:  Declaration{Source: uruncFile, Config: Config{Kernel: "/vmlinuz", Disk: "/d", Machine: "pc"}},
			line:  `panic=-1 console=ttyS0 root=/dev/vda rw ip=10.0.0.2::10.0.0.1:255.255.240.0:host:eth0:off A=1 init=/server -- -v "a b"`,
			alone: `panic=-1 console=ttyS0 root=/dev/vda rw A=1 init=/server -- -v "a b"`},
		"Linux with an initrd": {files: files{uruncFile: uruncJSON(append(linux, "initrd=/i")...)},
			want:  Declaration{Source: uruncFile, Config: Config{Kernel: "/vmlinuz", Initrd: "/i", Machine: "pc"}},
			alone: `panic=-1 console=ttyS0 root=/dev/ram0 rw A=1 rdinit=/server -- -v "a b"`},
		"KraftKit": {files: files{kraftKernel: "", kraftInitrd: ""},
			want:  Declaration{Source: kraftKernel, Config: Config{Kernel: kraftKernel, Initrd: kraftInitrd}},
			alone: `/server env.vars=[ A=1 ] vfs.fstab=[ "initrd0:/:extract:::" ] -- -v "a b"`},
		"KraftKit, its own words": {files: files{kraftKernel: "", kraftCmdline: "/app -x\n"}, noArgs: true,
			want: Declaration{Source: kraftKernel, Config: Config{Kernel: kraftKernel}}, alone: `/app env.vars=[ A=1 ] -- -x`},
	} {
		a := app("/server", "-v", "a b")
		a.Spec.Process.Env, a.Spec.Annotations = []string{"A=1"}, tt.said
		if tt.noArgs {
			a.Spec.Process.Args = nil
		}
		d, ok, err := Declared(a.Spec, tt.files.find)
		got := d
		got.Cmdline = ""
		if err != nil || ok != (tt.want.Source != "") || got != tt.want {
			t.Errorf("%s: got %+v, %t, %v", name, d, ok, err)
			continue
		}
		if tt.alone != "" {
			wantLine(t, name+" alone", d.Cmdline, a, tt.alone)
		}
		a.Network = network()
		if tt.line != "" {
			wantLine(t, name, d.Cmdline, a, tt.line)
		}
	}
}

// TestNameserver: Unikraft is told the container's, where it has one.
func TestNameserver(t *testing.T) {
	a := app("/server")
	a.Spec.Process.Env, a.Network, a.Nameservers = nil, network(), []netip.Addr{netip.MustParseAddr("10.96.0.10")}
	a.Spec.Mounts = []specs.Mount{{Destination: "/etc/resolv.conf", Type: "bind"}}
	d, _, err := Declared(a.Spec, files{kraftKernel: ""}.find)
	if err != nil {
		t.Fatal(err)
	}
	wantLine(t, "KraftKit", d.Cmdline, a, "/server netdev.ip=10.0.0.2/20:10.0.0.1:10.96.0.10 --")
	a.Network = unikernel.Network{}
	wantLine(t, "without a network", d.Cmdline, a, "/server --")
}

func wantLine(t *testing.T, name, template string, a unikernel.App, want string) {
	t.Helper()
	got, err := Template(template).Words(a)
	if err != nil || strings.Join(got, " ") != want {
		t.Errorf("%s: got %q, %v, want %q", name, strings.Join(got, " "), err, want)
	}
}

func TestDeclaredRefuses(t *testing.T) {
	no, invalid := unikernel.ErrNotImplemented, unikernel.ErrInvalid
	with := func(pairs ...string) files {
		return files{uruncFile: uruncJSON(append([]string{"binary=/k", "unikernelType=unikraft", "hypervisor=qemu"}, pairs...)...)}
	}
	for name, tt := range map[string]struct {
		files files
		want  error
		text  string
	}{
		"no JSON":         {files{File: "kernel=/k"}, invalid, "/uni.json: "},
		"unknown key":     {files{File: `{"kernel":"/k","kernal":"/k"}`}, invalid, `unknown field "kernal"`},
		"nothing named":   {files{File: `{"cmdline":"x"}`}, invalid, "neither a kernel nor a disk"},
		"no text":         {files{File: "\xff"}, invalid, "UTF-8"},
		"endless":         {files{uruncFile: strings.Repeat(" ", maxDeclared+1)}, invalid, "at most 65536 are read"},
		"no base64":       {files{uruncFile: `{"com.urunc.unikernel.binary": "/k"}`}, invalid, "com.urunc.unikernel.binary is not in base64"},
		"no binary":       {with("binary="), invalid, "no binary"},
		"another kind":    {with("unikernelType=nanos"), no, "io.containerd.uni.kernel"},
		"no version":      {with("unikernelVersion=new"), invalid, `"new" is no version`},
		"Firecracker":     {with("hypervisor=firecracker"), no, `the monitor "firecracker", and machines are QEMU's, whose devices are others: choose the platform "kvm"`},
		"Solo5's hvt":     {with("unikernelType=mirage", "hypervisor=hvt"), no, "configure it with -t virtio"},
		"Solo5's spt":     {with("unikernelType=mewz", "hypervisor=spt"), no, "build it for QEMU"},
		"Rumprun":         {with("unikernelType=rumprun"), no, "hvt and spt only"},
		"devmapper":       {with("unikernelType=linux", "useDMBlock=true"), no, "devmapper snapshotter"},
		"mounted by name": {with("block=/d", "blkMntPoint=/data"), no, "mounted on /data"},
	} {
		_, ok, err := Declared(app("x").Spec, tt.files.find)
		if ok || !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %t, %v", name, ok, err)
		}
	}
	unreadable := func(string) (unikernel.ImageFile, int64, error) { return nil, 0, os.ErrPermission }
	if _, ok, err := Declared(app("x").Spec, unreadable); ok || !errors.Is(err, os.ErrPermission) {
		t.Errorf("unreadable: %t, %v", ok, err)
	}
}

func TestBefore(t *testing.T) {
	for version, want := range map[string]bool{
		"": false, "0.16.1": false, "0.16.0": true, "0.16": true, "v0.15.9": true, "0.17.0-rc1": false, "1": false, "0": true, "0.16.1.1": false, "0.16.2": false,
	} {
		if got, err := before(version, 0, 16, 1); err != nil || got != want {
			t.Errorf("%q: %t, %v", version, got, err)
		}
	}
}

func FuzzDeclared(f *testing.F) {
	f.Add(`{"kernel":"/k"}`, "")
	f.Add("", uruncJSON("binary=/k", "unikernelType=linux", "cmdline=a b"))
	f.Fuzz(func(t *testing.T, here, there string) {
		files := files{}
		for name, text := range map[string]string{File: here, uruncFile: there} {
			if text != "" {
				files[name] = text
			}
		}
		s := &specs.Spec{Process: &specs.Process{}}
		if d, ok, err := Declared(s, files.find); err == nil && ok && d.Kernel == "" && d.Disk == "" {
			t.Errorf("%+v", d)
		}
	})
}
