package cri

import (
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"containerd-shim-uni/config"
	"containerd-shim-uni/unikernel"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Annotations by which containerd's CRI tells what a container is in its pod
// (internal/cri/annotations of containerd 2.4).
const (
	annotationType      = "io.kubernetes.cri.container-type"
	annotationSandbox   = "io.kubernetes.cri.sandbox-id"
	annotationNamespace = "io.kubernetes.cri.sandbox-namespace"
	annotationUID       = "io.kubernetes.cri.sandbox-uid"
	annotationName      = "io.kubernetes.cri.sandbox-name"
	annotationLogs      = "io.kubernetes.cri.sandbox-log-directory"
	annotationMemory    = "io.kubernetes.cri.sandbox-memory"
	annotationQuota     = "io.kubernetes.cri.sandbox-cpu-quota"
	annotationPeriod    = "io.kubernetes.cri.sandbox-cpu-period"
	annotationShares    = "io.kubernetes.cri.sandbox-cpu-shares"

	typeSandbox = "sandbox"
)

// shmBytes is the size of a pod's /dev/shm, containerd's defaultShmSize.
const shmBytes = 64 << 20

// Host is what a pod takes over from its host.
type Host struct {
	// Name is the host's, for a pod without one; Hosts and Resolv are the contents of
	// its /etc/hosts and /etc/resolv.conf.
	Name, Hosts, Resolv string
}

// Pod is what a pod is asked to be.
type Pod struct {
	// Config is what was asked for.
	Config *runtime.PodSandboxConfig
	// Spec is the specification of the pod's own container. Its mounts are what the
	// pod's containers have, unless they mount something else there: the Files, and a
	// tmpfs at /dev/shm, whose source is a directory that stands for it.
	Spec *specs.Spec
	// Files are the contents of files by their paths.
	Files map[string]string
}

// Read reads the options of a sandbox: PodSandboxConfig of the container runtime
// interface.
func Read(options *anypb.Any) (*runtime.PodSandboxConfig, error) {
	c := new(runtime.PodSandboxConfig)
	if err := unpack(options, c); err != nil {
		return nil, err
	}
	return c, nil
}

// unpack reads a message that containerd's typeurl has packed, whose types have no
// prefix.
func unpack(a *anypb.Any, into proto.Message) error {
	name := string(into.ProtoReflect().Descriptor().FullName())
	if a.GetTypeUrl() != name && !strings.HasSuffix(a.GetTypeUrl(), "/"+name) {
		return fmt.Errorf("%w: a sandbox that is described by %q: what is known is %s, as containerd's CRI sends it", unikernel.ErrNotImplemented, a.GetTypeUrl(), name)
	}
	if err := proto.Unmarshal(a.GetValue(), into); err != nil {
		return fmt.Errorf("%s: %w: %w", name, unikernel.ErrInvalid, err)
	}
	return nil
}

// Translate says what a pod is to be: the specification that containerd's controller
// "podsandbox" would have written for its own container, as far as it means anything
// here. dir is where its files are to be, netns its network namespace; empty for the
// host's.
func Translate(id string, c *runtime.PodSandboxConfig, netns, dir string, host Host) Pod {
	name := c.GetHostname()
	if name == "" {
		name = host.Name
	}
	resolv := host.Resolv
	if c.GetDnsConfig() != nil {
		resolv = resolvConf(c.DnsConfig)
	}
	pod := Pod{Config: c, Files: map[string]string{}}
	var mounts []specs.Mount
	for _, f := range []struct{ at, content string }{
		{"/etc/hostname", name + "\n"}, {"/etc/hosts", host.Hosts}, {"/etc/resolv.conf", resolv},
	} {
		source := filepath.Join(dir, path.Base(f.at))
		pod.Files[source] = f.content
		mounts = append(mounts, specs.Mount{Destination: f.at, Type: "bind", Source: source, Options: []string{"rbind", "rprivate", "rw"}})
	}
	mounts = append(mounts, specs.Mount{Destination: "/dev/shm", Type: "tmpfs", Source: filepath.Join(dir, "shm"),
		Options: []string{"nosuid", "noexec", "nodev", "mode=1777", fmt.Sprintf("size=%d", shmBytes)}})
	pod.Spec = &specs.Spec{
		Version: specs.Version, Hostname: c.GetHostname(), Annotations: annotations(id, c), Mounts: mounts,
		Process: &specs.Process{Args: []string{"/pause"}, Cwd: "/"},
		Root:    &specs.Root{Path: "rootfs", Readonly: true},
		Linux: &specs.Linux{
			CgroupsPath: cgroupsPath(c.GetLinux().GetCgroupParent(), id),
			Namespaces:  namespaces(c.GetLinux().GetSecurityContext().GetNamespaceOptions(), netns),
			Sysctl:      sysctls(c.GetLinux().GetSysctls()),
		},
	}
	return pod
}

// resolvConf is the file that resolv.conf(5) describes.
func resolvConf(c *runtime.DNSConfig) string {
	var b strings.Builder
	if len(c.Searches) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(c.Searches, " "))
	}
	for _, server := range c.Servers {
		fmt.Fprintf(&b, "nameserver %s\n", server)
	}
	if len(c.Options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(c.Options, " "))
	}
	return b.String()
}

// annotations are what the specification says of the pod, and what the pod says to this
// runtime: which of that is allowed is for the configuration.
func annotations(id string, c *runtime.PodSandboxConfig) map[string]string {
	all := map[string]string{
		annotationType: typeSandbox, annotationSandbox: id,
		annotationNamespace: c.GetMetadata().GetNamespace(), annotationUID: c.GetMetadata().GetUid(), annotationName: c.GetMetadata().GetName(),
		annotationLogs: c.GetLogDirectory(),
	}
	maps.Copy(all, Limits(c.GetLinux().GetResources()))
	for name, value := range c.GetAnnotations() {
		if strings.HasPrefix(name, config.AnnotationPrefix) {
			all[name] = value
		}
	}
	return all
}

// Limits are the annotations that tell the sums of the limits of a pod's containers;
// none if they are not known.
func Limits(r *runtime.LinuxContainerResources) map[string]string {
	if r == nil {
		return nil
	}
	decimal := func(n int64) string { return strconv.FormatInt(n, 10) }
	return map[string]string{
		annotationMemory: decimal(r.MemoryLimitInBytes), annotationQuota: decimal(r.CpuQuota),
		annotationPeriod: decimal(r.CpuPeriod), annotationShares: decimal(r.CpuShares),
	}
}

// cgroupsPath is the pod's own cgroup below its parent: the rule of containerd's CRI, by
// which a slice of systemd has the three words of its driver.
func cgroupsPath(parent, id string) string {
	switch base := path.Base(parent); {
	case parent == "":
		return ""
	case strings.HasSuffix(base, ".slice"):
		return strings.Join([]string{base, "cri-containerd", id}, ":")
	default:
		return path.Join(parent, id)
	}
}

// namespaces are those of the pod: one that is the host's is missing, as in every
// specification.
func namespaces(o *runtime.NamespaceOption, netns string) []specs.LinuxNamespace {
	all := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	if o.GetNetwork() != runtime.NamespaceMode_NODE && netns != "" {
		all = append(all, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: netns}, specs.LinuxNamespace{Type: specs.UTSNamespace})
	}
	if o.GetPid() != runtime.NamespaceMode_NODE {
		all = append(all, specs.LinuxNamespace{Type: specs.PIDNamespace})
	}
	if o.GetIpc() != runtime.NamespaceMode_NODE {
		all = append(all, specs.LinuxNamespace{Type: specs.IPCNamespace})
	}
	if u := o.GetUsernsOptions(); u != nil && u.GetMode() == runtime.NamespaceMode_POD {
		all = append(all, specs.LinuxNamespace{Type: specs.UserNamespace})
	}
	return all
}

// sysctls are the pod's, and what containerd 2 adds by default: in a network of its own
// a program needs no privilege for low ports and for ping.
func sysctls(asked map[string]string) map[string]string {
	all := map[string]string{"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}
	maps.Copy(all, asked)
	return all
}
