package sandbox

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"containerd-shim-uni/config"
	"containerd-shim-uni/shim/console"
	"containerd-shim-uni/unikernel"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
)

// Names of fields in the log.
const (
	fieldSandbox = "sandbox"
	fieldStage   = "stage"
)

// Spec is what a sandbox is asked to be.
type Spec struct {
	Names  Names
	Config config.Config
	// Size is what the machine gets.
	Size unikernel.Resources
	// NetNS is the path of the network namespace it joins; empty for one of its
	// own.
	NetNS string
	// CgroupsPath is the specification's, see cgroup.PlaceOf. CPU are its limits, or
	// nil.
	CgroupsPath string
	CPU         *specs.LinuxCPU
	// OOMScoreAdj is for the machine's processes, see proc(5); nil leaves it the shim's.
	OOMScoreAdj *int
}

// Sandbox is one machine and all it needs on the host. See the package's
// comment for its life.
type Sandbox struct {
	// Set at the beginning and never changed.
	spec     Spec
	names    Names
	host     Host
	networks Networks
	// netns is the network namespace's path; ownNetns says we made it.
	netns    string
	ownNetns bool

	// Set while it is created, by one caller after the other.
	machines Machines
	group    Group
	guest    unikernel.Guest
	build    Build
	hardware Hardware
	network  unikernel.Network
	vm       *process
	helpers  []*process
	fork     forking
	standIn  *StandIn
	hollow   bool // there is no machine

	// up is closed once there is a session, ended once end is set.
	up, ended chan struct{}
	// watching ends with the sandbox; watchers are those who look at processes.
	watching     context.Context
	stopWatching context.CancelFunc
	watchers     sync.WaitGroup
	// unwatch stops watching the machine there is.
	unwatch func()
	// shutdown ends the machine, once.
	shutdown func()
	// releasing is held while the host is freed.
	releasing sync.Mutex
	// plugging holds a value while disks come or go.
	plugging chan struct{}

	mu      sync.Mutex
	state   State
	owner   string          // the first member
	members map[string]bool // false once it has ended
	end     unikernel.End
	session unikernel.Session
	luns    [unikernel.MaxLUNs]string // serials of the disks that came, by unit
	asked   bool                      // the guest was asked to end
	stages  map[string]int64          // ms, see took
	console *console.Console
	// output is what the console gives a guest that has no other voice.
	output *io.PipeReader
}

// New returns a sandbox of which nothing is on the host yet.
func New(host Host, spec Spec) *Sandbox {
	s := &Sandbox{
		spec: spec, names: spec.Names, host: host, networks: host.Networks(spec.Config),
		netns: spec.NetNS, ownNetns: spec.NetNS == "",
		fork: forking{templates: host.Templates(spec.Config)}, vm: noProcess(), up: make(chan struct{}), ended: make(chan struct{}), plugging: make(chan struct{}, 1), members: map[string]bool{}, stages: map[string]int64{},
	}
	if s.ownNetns {
		s.netns = s.names.netns()
	}
	s.watching, s.stopWatching = context.WithCancel(context.Background())
	s.shutdown = sync.OnceFunc(s.shutDown)
	return s
}

func (s *Sandbox) log() *log.Entry {
	return log.L.WithField(fieldSandbox, s.title())
}

// took notes how long a stage of the sandbox's life took.
func (s *Sandbox) took(stage string, since time.Time) {
	ms := time.Since(since).Milliseconds()
	s.log().WithField(fieldStage, stage).WithField("ms", ms).Debug("stage done")
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stages[stage] = ms
}

// allow moves the sandbox to the state that follows o, or refuses it. The
// caller holds mu.
func (s *Sandbox) allow(o op) error {
	to, err := s.state.next(o)
	if err != nil {
		return fmt.Errorf("sandbox %s: %w", s.names.ID, err)
	}
	s.state = to
	return nil
}

// step is allow for callers that do not hold mu.
func (s *Sandbox) step(o op) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.allow(o)
}

// State returns where the sandbox is in its life.
func (s *Sandbox) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// Join makes a container a member. The first is the sandbox's owner: the machine
// stays until it leaves, and what is on the host until it is released. A sandbox
// whose owner has left takes no other.
func (s *Sandbox) Join(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.allow(opJoin); err != nil {
		return err
	}
	if _, there := s.members[id]; there {
		return fmt.Errorf("container %s in sandbox %s: %w", id, s.names.ID, errdefs.ErrAlreadyExists)
	}
	if s.owner == "" {
		s.owner = id
	} else if !s.members[s.owner] {
		return fmt.Errorf("sandbox %s: it has ended: %w", s.names.ID, errdefs.ErrFailedPrecondition)
	}
	if s.guest != nil && s.alive() >= s.guest.Capacity() {
		return fmt.Errorf("sandbox %s: %w: a machine of the guest %q holds %d at a time", s.names.ID,
			unikernel.ErrNotImplemented, s.guest.Name(), s.guest.Capacity())
	}
	s.members[id] = true
	return nil
}

// alive is how many members have not left. The caller holds mu.
func (s *Sandbox) alive() (n int) {
	for _, alive := range s.members {
		if alive {
			n++
		}
	}
	return n
}

// NetNS is the path of the network namespace.
func (s *Sandbox) NetNS() string { return s.netns }

// Size is what the machine has.
func (s *Sandbox) Size() unikernel.Resources { return s.spec.Size }

// Network is what the machine takes over from the network namespace. It may
// grow until Boot returns.
func (s *Sandbox) Network() unikernel.Network {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.network
}

// title is shown to an operator.
func (s *Sandbox) title() string { return s.names.Namespace + "/" + s.names.ID }

// UpdateCPU changes the limits of CPU in force.
func (s *Sandbox) UpdateCPU(cpu *specs.LinuxCPU) error { return s.group.Update(cpu) }

// Score sets how readily the host's kernel ends the machine when memory runs out
// there (proc(5), oom_score_adj).
func (s *Sandbox) Score(adj int) {
	for _, p := range append(slices.Clone(s.helpers), s.vm) {
		if err := p.score(adj); err != nil {
			s.log().WithError(err).Info("the machine keeps its out-of-memory score")
			return
		}
	}
}

// Stats returns the metrics of the sandbox's cgroup, in containerd's type.
func (s *Sandbox) Stats() (proto.Message, error) { return s.group.Stats() }

// OutOfMemory says that the host's kernel killed for lack of memory in the
// sandbox's cgroup.
func (s *Sandbox) OutOfMemory() bool { return s.group.OOMKills() > 0 }

// Tail returns the console's last lines once it ended, or soon.
func (s *Sandbox) Tail(lines int) []string {
	s.mu.Lock()
	con := s.console
	s.mu.Unlock()
	if con == nil {
		return nil
	}
	select { // what the guest said last may still be on its way
	case <-con.Ended():
	case <-time.After(consoleTimeout):
	}
	return con.Tail(lines)
}
