package sandboxtest

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
)

// Group is a cgroup that takes any process.
type Group struct {
	// Err is what every call returns.
	Err error
	// Kills is what OOMKills returns.
	Kills uint64
	// Updates are what Update was told.
	Updates []specs.LinuxCPU
}

// Add implements sandbox.Group.
func (g *Group) Add(...int) error { return g.Err }

// Update implements sandbox.Group.
func (g *Group) Update(cpu *specs.LinuxCPU) error {
	g.Updates = append(g.Updates, *cpu)
	return g.Err
}

// Stats implements sandbox.Group.
func (g *Group) Stats() (proto.Message, error) { return nil, g.Err }

// OOMKills implements sandbox.Group.
func (g *Group) OOMKills() uint64 { return g.Kills }
