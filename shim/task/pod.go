package task

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"containerd-shim-uni/shim/share"
	"containerd-shim-uni/shim/volume"
	"containerd-shim-uni/unikernel"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Annotations by which containerd's CRI tells what a container is in its pod
// (pkg/cri/annotations of containerd 1.6, internal/cri/annotations of 2.x).
const (
	annotationType      = "io.kubernetes.cri.container-type"
	annotationSandbox   = "io.kubernetes.cri.sandbox-id"
	annotationMemory    = "io.kubernetes.cri.sandbox-memory"     // bytes
	annotationCPUQuota  = "io.kubernetes.cri.sandbox-cpu-quota"  // µs of a period
	annotationCPUPeriod = "io.kubernetes.cri.sandbox-cpu-period" // µs

	typeSandbox   = "sandbox"
	typeContainer = "container"
)

// podOf returns the id of the pod that a container is in, which is that of the
// pod's own container; empty for one that is alone.
func podOf(annotations map[string]string) (string, error) {
	kind, pod := annotations[annotationType], annotations[annotationSandbox]
	switch {
	case kind == "":
		return "", nil
	case kind != typeSandbox && kind != typeContainer:
		return "", fmt.Errorf("%w: annotation %s is %q, known are %q and %q", unikernel.ErrInvalid, annotationType, kind, typeSandbox, typeContainer)
	case pod == "":
		return "", fmt.Errorf("%w: annotation %s is missing", unikernel.ErrInvalid, annotationSandbox)
	}
	return pod, nil
}

// pod is what the containers of a pod have in common: the machine, which their own
// container keeps, and the order in which they end.
type pod struct {
	keeper  *Container
	shares  *share.Tree
	volumes *volume.Set
	// mounts are what each of them has, see commonMounts.
	mounts []specs.Mount

	// cpus are the processors that it may run on, see pin.
	cpus string
	// hollow says that there is no machine: the containers bring theirs, see solo.
	hollow bool

	pinning sync.Mutex
	sets    map[*Container]string

	mu      sync.Mutex
	ending  bool
	members map[*Container]bool
	sole    *Container         // has the network of a hollow pod
	scores  map[*Container]int // of those that have not ended, see score
}

// admit takes in a container that is created, unless the pod ends.
func (p *pod) admit(c *Container) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ending {
		return fmt.Errorf("container %s: pod %s is ending: %w", c.names.ID, p.keeper.names.ID, errdefs.ErrFailedPrecondition)
	}
	p.members[c] = true
	if adj := c.app.Spec.Process.OOMScoreAdj; adj != nil {
		p.scores[c] = *adj
		p.score()
	}
	return nil
}

// leave is called when a container has ended.
func (p *pod) leave(c *Container) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, scored := p.scores[c]; scored {
		delete(p.scores, c)
		p.score()
	}
}

// score gives the machine the out-of-memory score of its containers. Without any it
// keeps what it has. The caller holds mu.
func (p *pod) score() {
	if len(p.scores) > 0 && !p.hollow { // else each has a machine of its own
		p.keeper.sandbox.Score(podScore(slices.Collect(maps.Values(p.scores))))
	}
}

// leastScore is the least that a kubelet gives a container whose request is less than
// its limit (pkg/kubelet/qos/policy.go).
const leastScore = 3

// podScore is the oom_score_adj of a process that is several containers at once. A
// kubelet gives each 1000 less the share of the node's memory that it asked for, in
// thousandths, and those of a pod that may use no more than they asked for a negative
// number. What containers asked for adds up, as what they use does.
func podScore(each []int) int {
	if least := slices.Min(each); least < 0 {
		return least
	}
	all := 1000
	for _, adj := range each {
		all -= 1000 - adj
	}
	return max(all, min(leastScore, slices.Min(each)))
}

// dismiss forgets a container that is deleted.
func (p *pod) dismiss(c *Container) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.members, c)
	if p.sole == c {
		p.sole = nil
	}
}

// end ends all containers but the pod's own, and returns when their exits are
// published. Those that do not end in time go with the machine.
func (p *pod) end() {
	p.mu.Lock()
	p.ending = true
	var all []*Container
	for c := range p.members {
		all = append(all, c)
	}
	p.mu.Unlock()
	for _, c := range all {
		_ = c.Kill(context.Background(), syscall.SIGKILL, true) // refused if it has exited
	}
	timer := time.NewTimer(podEndTimeout)
	defer timer.Stop()
	for _, c := range all {
		select {
		case <-c.exited:
			continue
		case <-timer.C:
		}
		p.keeper.log().Warn("containers of the pod do not end; the machine is destroyed")
		p.keeper.sandbox.Destroy()
		break
	}
	for _, c := range all {
		<-c.exited
	}
}

// namespaceFiles are the names in /proc/PID/ns of those namespaces that a pod's
// containers share: the machine's.
var namespaceFiles = map[specs.LinuxNamespaceType]string{
	specs.NetworkNamespace: "net", specs.IPCNamespace: "ipc", specs.UTSNamespace: "uts",
}

// namespaceOf says what a namespace is of which a container has the path: of the pod,
// or of one of its other containers, as their stand-ins are named in it.
func (p *pod) namespaceOf(ns specs.LinuxNamespace) (of *Container, ok bool) {
	means := func(c *Container, file string) bool {
		return filepath.Clean(ns.Path) == fmt.Sprintf("/proc/%d/ns/%s", c.standIn.Pid(), file)
	}
	if ns.Type != specs.PIDNamespace {
		file, shared := namespaceFiles[ns.Type]
		return p.keeper, shared && means(p.keeper, file)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.members {
		if means(c, "pid") {
			return c, true
		}
	}
	return p.keeper, means(p.keeper, "pid")
}

// namespaces takes the paths out of a container's namespaces that mean its pod's:
// the guest has all its containers in them. Others are no namespaces that a machine
// can join. It returns the container whose PID namespace is to be shared: the pod's
// own, another, or nil.
func (p *pod) namespaces(list []specs.LinuxNamespace) (own []specs.LinuxNamespace, pids *Container, err error) {
	for _, ns := range list {
		if ns.Path != "" {
			of, ok := p.namespaceOf(ns)
			if !ok {
				return nil, nil, fmt.Errorf("%w: the container is to join the %s namespace %s, which is not its pod's: a machine has a kernel of its own and cannot join a namespace of the host",
					unikernel.ErrNotImplemented, ns.Type, ns.Path)
			}
			if ns.Type == specs.PIDNamespace {
				pids = of
			}
			ns.Path = ""
		}
		own = append(own, ns)
	}
	return own, pids, nil
}
