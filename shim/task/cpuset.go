package task

import (
	"fmt"
	"os"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// A container's set of processors names the host's, and in a pod all containers run on
// the virtual ones of one machine. That runs on the processors which the sets of its
// containers name together, as long as each has one: a node that gives containers
// processors of their own (the kubelet's static CPU manager) gives all a set.

// onlineCPUs lists the host's processors (Documentation/admin-guide/cputopology.rst).
const onlineCPUs = "/sys/devices/system/cpu/online"

// pin notes a container's set, empty for none, and has the machine run on those of all.
func (p *pod) pin(c *Container, set string) error {
	p.pinning.Lock()
	defer p.pinning.Unlock()
	before := p.cpuset()
	old, had := p.sets[c]
	p.sets[c] = set
	if err := p.moveTo(before); err != nil {
		if p.sets[c] = old; !had {
			delete(p.sets, c)
		}
		return fmt.Errorf("processors %q: %w", set, err)
	}
	return nil
}

// unpin forgets a container's set.
func (p *pod) unpin(c *Container) {
	p.pinning.Lock()
	defer p.pinning.Unlock()
	before := p.cpuset()
	delete(p.sets, c)
	if err := p.moveTo(before); err != nil {
		c.log().WithError(err).Warn("the pod's machine keeps to the processors of a container that has gone")
	}
}

// moveTo has the machine run on the set there is now, if it is another than before. The
// caller holds pinning.
func (p *pod) moveTo(before string) error {
	now := p.cpuset()
	if now == before {
		return nil
	}
	return p.keeper.sandbox.UpdateCPU(&specs.LinuxCPU{Cpus: now})
}

// cpuset is what the sets name together, or all that the pod may have. The caller holds
// pinning.
func (p *pod) cpuset() string {
	var all []string
	for _, set := range p.sets {
		if set == "" {
			return p.cpus
		}
		all = append(all, set)
	}
	if len(all) == 0 {
		return p.cpus
	}
	slices.Sort(all)
	return strings.Join(slices.Compact(all), ",")
}

// allCPUs are those that a pod may have, by the cgroup that its own is in; the host's
// where that is not there yet.
func allCPUs(above string) string {
	if above != "" {
		return above
	}
	online, _ := os.ReadFile(onlineCPUs)
	return strings.TrimSpace(string(online))
}
