package status

import "time"

// Socket is the socket's name in the directory of a sandbox.
const Socket = "status.sock"

// Kinds of a Machine.
const (
	KindContainer = "container" // one container has it to itself
	KindPod       = "pod"
)

// Machine is a machine and the containers in it.
type Machine struct {
	Namespace string `json:"namespace"`
	// ID is the container's or, of a pod, that of the pod's own container.
	ID   string `json:"id"`
	Kind string `json:"kind"`
	// State is one of package sandbox.
	State string `json:"state"`
	Guest string `json:"guest"`
	// Type is QEMU's machine type.
	Type string `json:"machine,omitempty"`
	// Emulated says that the processor is emulated because KVM is not used.
	Emulated bool `json:"emulated"`
	VCPUs    int  `json:"vcpus"`
	// MemoryMiB is the machine's RAM.
	MemoryMiB int `json:"memoryMiB"`
	// Pid is the hypervisor's, Shim the shim's.
	Pid  int `json:"pid"`
	Shim int `json:"shim"`
	// Resident is what the hypervisor has of the host's memory, in bytes; 0 if that
	// cannot be read any more.
	Resident uint64 `json:"resident"`
	// NetNS is the path of the network namespace that it is in.
	NetNS   string    `json:"netns"`
	Created time.Time `json:"created"`
	// Stages are how long parts of its start took, in ms, in the names that the log
	// has too.
	Stages map[string]int64 `json:"stages"`
	// End is why the machine ended, empty while there is one.
	End        string      `json:"end,omitempty"`
	Containers []Container `json:"containers"`
}

// Container is a container of a machine. A pod's own container is not listed.
type Container struct {
	ID string `json:"id"`
	// State is one of package task.
	State  string `json:"state"`
	Bundle string `json:"bundle"`
	// Pid is the number that clients have.
	Pid     int       `json:"pid"`
	Created time.Time `json:"created"`
	// Started is zero until its process runs.
	Started time.Time `json:"started,omitzero"`
	Exit    *Exit     `json:"exit,omitempty"`
	// Execs is how many further processes run in it.
	Execs int `json:"execs"`
	// Stages are as those of Machine.
	Stages map[string]int64 `json:"stages"`
	// Written is what its writable layer occupies on the host's disk, in bytes.
	Written int64 `json:"written"`
	// Used is what its guest counted, nil if it counts nothing or does not answer.
	Used *Used `json:"used,omitempty"`
}

// Exit is how a container ended.
type Exit struct {
	Status uint32    `json:"status"`
	At     time.Time `json:"at"`
}

// Used is what a container uses, as its guest counts.
type Used struct {
	// CPU is in µs, Memory in bytes without what can be given back at once (the
	// working set of Kubernetes), Pids processes and threads.
	CPU    uint64 `json:"cpuMicroseconds"`
	Memory uint64 `json:"memory"`
	Pids   uint64 `json:"pids"`
	// Received and Sent are bytes of all interfaces.
	Received uint64 `json:"received"`
	Sent     uint64 `json:"sent"`
}

// Request is what a client asks. The zero value asks for the Machine.
type Request struct {
	// Console is how many of the console's last lines are wanted.
	Console int `json:"console,omitempty"`
}

// Answer is what it gets.
type Answer struct {
	Machine *Machine `json:"machine,omitempty"`
	Console []string `json:"console,omitempty"`
}

// Source is what a socket tells about.
type Source interface {
	// Status describes the machine, in bounded time.
	Status() Machine
	// Tail returns the console's last lines.
	Tail(lines int) []string
}
