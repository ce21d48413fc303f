package cri

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"containerd-shim-uni/unikernel"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var thisHost = Host{Name: "host", Hosts: "127.0.0.1 localhost\n", Resolv: "nameserver 192.0.2.1\n"}

func TestTranslate(t *testing.T) {
	asked := &runtime.PodSandboxConfig{
		Metadata: &runtime.PodSandboxMetadata{Name: "web", Uid: "u", Namespace: "default"},
		Hostname: "web-0", LogDirectory: "/var/log/pods/u",
		DnsConfig:   &runtime.DNSConfig{Servers: []string{"192.0.2.53", "2001:db8::53"}, Searches: []string{"a.example", "b.example"}, Options: []string{"ndots:5"}},
		Annotations: map[string]string{"io.containerd.uni.memory": "512MiB", "example.com/other": "x"},
		Linux: &runtime.LinuxPodSandboxConfig{
			CgroupParent: "/kubepods/podu", Sysctls: map[string]string{"kernel.shm_rmid_forced": "1", "net.ipv4.ping_group_range": "1 0"},
			Resources: &runtime.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, CpuQuota: 50000, CpuPeriod: 100000, CpuShares: 512},
		},
	}
	p := Translate("id", asked, "/run/netns/n", "/b/pod", thisHost)
	want := &specs.Spec{
		Version: specs.Version, Hostname: "web-0",
		Process: &specs.Process{Args: []string{"/pause"}, Cwd: "/"}, Root: &specs.Root{Path: "rootfs", Readonly: true},
		Annotations: map[string]string{
			"io.kubernetes.cri.container-type": "sandbox", "io.kubernetes.cri.sandbox-id": "id", "io.kubernetes.cri.sandbox-name": "web",
			"io.kubernetes.cri.sandbox-namespace": "default", "io.kubernetes.cri.sandbox-uid": "u", "io.kubernetes.cri.sandbox-log-directory": "/var/log/pods/u",
			"io.kubernetes.cri.sandbox-memory": "67108864", "io.kubernetes.cri.sandbox-cpu-quota": "50000",
			"io.kubernetes.cri.sandbox-cpu-period": "100000", "io.kubernetes.cri.sandbox-cpu-shares": "512",
			"io.containerd.uni.memory": "512MiB",
		},
		Mounts: []specs.Mount{
			{Destination: "/etc/hostname", Type: "bind", Source: "/b/pod/hostname", Options: []string{"rbind", "rprivate", "rw"}},
			{Destination: "/etc/hosts", Type: "bind", Source: "/b/pod/hosts", Options: []string{"rbind", "rprivate", "rw"}},
			{Destination: "/etc/resolv.conf", Type: "bind", Source: "/b/pod/resolv.conf", Options: []string{"rbind", "rprivate", "rw"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "/b/pod/shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=67108864"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: "/kubepods/podu/id",
			Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.NetworkNamespace, Path: "/run/netns/n"},
				{Type: specs.UTSNamespace}, {Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}},
			Sysctl: map[string]string{"kernel.shm_rmid_forced": "1", "net.ipv4.ping_group_range": "1 0", "net.ipv4.ip_unprivileged_port_start": "0"},
		},
	}
	if diff := cmp.Diff(want, p.Spec); diff != "" {
		t.Errorf("specification (-want +got):\n%s", diff)
	}
	files := map[string]string{
		"/b/pod/hostname": "web-0\n", "/b/pod/hosts": thisHost.Hosts,
		"/b/pod/resolv.conf": "search a.example b.example\nnameserver 192.0.2.53\nnameserver 2001:db8::53\noptions ndots:5\n",
	}
	if diff := cmp.Diff(files, p.Files); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

// TestTranslateNothing: what is not said is the host's, or nothing.
func TestTranslateNothing(t *testing.T) {
	p := Translate("id", &runtime.PodSandboxConfig{}, "/n", "/b", thisHost)
	if got := p.Files["/b/hostname"] + p.Files["/b/resolv.conf"]; got != "host\n"+thisHost.Resolv {
		t.Errorf("files: %q", p.Files)
	}
	if p.Spec.Linux.CgroupsPath != "" {
		t.Errorf("cgroup %q", p.Spec.Linux.CgroupsPath)
	}
	if _, there := p.Spec.Annotations[annotationMemory]; there {
		t.Error("limits that nobody told are told")
	}
}

func TestNamespaces(t *testing.T) {
	node, pod := runtime.NamespaceMode_NODE, runtime.NamespaceMode_POD
	for name, test := range map[string]struct {
		options *runtime.NamespaceOption
		netns   string
		missing []specs.LinuxNamespaceType
		more    specs.LinuxNamespaceType
	}{
		"network": {&runtime.NamespaceOption{Network: node}, "", []specs.LinuxNamespaceType{"network", "uts"}, ""},
		"pid":     {&runtime.NamespaceOption{Pid: node}, "/n", []specs.LinuxNamespaceType{"pid"}, ""},
		"ipc":     {&runtime.NamespaceOption{Ipc: node}, "/n", []specs.LinuxNamespaceType{"ipc"}, ""},
		"users":   {&runtime.NamespaceOption{UsernsOptions: &runtime.UserNamespace{Mode: pod}}, "/n", nil, "user"},
		"host's users": {&runtime.NamespaceOption{UsernsOptions: &runtime.UserNamespace{Mode: node}}, "/n", []specs.LinuxNamespaceType{
			"user"}, ""},
	} {
		got := map[specs.LinuxNamespaceType]bool{}
		for _, ns := range namespaces(test.options, test.netns) {
			got[ns.Type] = true
		}
		for _, ns := range test.missing {
			if got[ns] {
				t.Errorf("%s: has %s", name, ns)
			}
		}
		if test.more != "" && !got[test.more] {
			t.Errorf("%s: has no %s", name, test.more)
		}
	}
}

func TestCgroupsPath(t *testing.T) {
	for parent, want := range map[string]string{
		"":                                    "",
		"/kubepods/pod":                       "/kubepods/pod/id",
		"kubepods-burstable-pod1.slice":       "kubepods-burstable-pod1.slice:cri-containerd:id",
		"/kubepods.slice/kubepods-pod1.slice": "kubepods-pod1.slice:cri-containerd:id",
		"/a.slice/b":                          "/a.slice/b/id",
	} {
		if got := cgroupsPath(parent, "id"); got != want {
			t.Errorf("%q: %q, want %q", parent, got, want)
		}
	}
}

func TestRead(t *testing.T) {
	data, err := proto.Marshal(&runtime.PodSandboxConfig{Hostname: "h"})
	if err != nil {
		t.Fatal(err)
	}
	for _, url := range []string{"runtime.v1.PodSandboxConfig", "type.googleapis.com/runtime.v1.PodSandboxConfig"} {
		if c, err := Read(&anypb.Any{TypeUrl: url, Value: data}); err != nil || c.Hostname != "h" {
			t.Errorf("%s: %v, %v", url, c, err)
		}
	}
	for name, test := range map[string]struct {
		options *anypb.Any
		want    error
	}{
		"nothing": {nil, unikernel.ErrNotImplemented},
		"another": {&anypb.Any{TypeUrl: "containerd.runc.v1.Options"}, unikernel.ErrNotImplemented},
		"garbage": {&anypb.Any{TypeUrl: "runtime.v1.PodSandboxConfig", Value: []byte{0xff}}, unikernel.ErrInvalid},
	} {
		if _, err := Read(test.options); !errors.Is(err, test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestWrite: the bundle has the specification, and all that its mounts name.
func TestWrite(t *testing.T) {
	bundle := t.TempDir()
	p := Translate("id", &runtime.PodSandboxConfig{Hostname: "h"}, "/n", Dir(bundle), thisHost)
	if err := p.Write(bundle); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	var got specs.Spec
	if err := json.Unmarshal(text, &got); err != nil || got.Hostname != "h" {
		t.Fatalf("%v, %v", got, err)
	}
	for _, m := range got.Mounts {
		info, err := os.Stat(m.Source)
		if err != nil || info.IsDir() != (m.Type == "tmpfs") {
			t.Errorf("%+v: %v, %v", m, info, err)
		}
	}
}
