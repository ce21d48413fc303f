// Package task keeps the containers of one shim: it creates, starts, watches
// and deletes them, and is the only place that knows what state one is in.
//
// # A container
//
// A container is one first process, its disks and its streams, in a machine that
// its sandbox owns, see package sandbox. Its states, in the words of containerd
// where it has one:
//
//	          ┌─────────┐ start  ┌──────────┐ ran  ┌─────────┐ pause ┌─────────┐ paused ┌────────┐
//	create ──▶│ created │───────▶│ starting │─────▶│ running │──────▶│ pausing │───────▶│ paused │
//	          └─────────┘        └──────────┘      └─────────┘◀──────└─────────┘        └────────┘
//	               │                  │              │  ▲    failed      │                │    │
//	               │                  │              │  │ resumed ┌──────────┐   resume   │    │
//	               │                  │              │  └─────────│ resuming │◀───────────┘    │
//	               │                  │              │            └──────────┘                 │
//	               ▼ exit             ▼ exit         ▼ exit            ▼ exit             exit ▼
//	          ┌─────────────────────────────────────────────────────────────────────────────────┐
//	          │                                    stopped                                      │
//	          └─────────────────────────────────────────────────────────────────────────────────┘
//	               │ delete (from created too: exit comes first)
//	               ▼
//	          ┌──────────┐  failed: stopped again
//	          │ deleting │──▶ gone
//	          └──────────┘
//
// The table in state.go is the single list of what is allowed when; everything
// else is refused with FailedPrecondition naming the state, or NotFound where
// containerd expects that of a process that has finished.
//
// # Pods
//
// What a container is in its sandbox is its place: alone in a machine of its own, the
// keeper of a pod's machine (the container that containerd's CRI calls the sandbox, and
// Kubernetes pause), a member of that pod, or, where the pod's guest holds one program, the
// solo of a pod that has no machine. All else is the same for the four.
//
//	         made with        started by            ends by                 on the host until
//	alone    the machine      boot, Run             the machine's end       it is deleted
//	keeper   the machine      boot, Configure       the members', then      it is deleted: network,
//	                                                the machine's end       cgroup, share
//	member   its disks        disks attached,       Remove in the guest,    it is deleted: its disks
//	                          Container, Run        disks detached
//	solo     the machine      boot, Run             the machine's end       it is deleted: then the pod's
//	                                                                        network is another's
//
// A keeper's program does not run and its root is not looked at: SIGKILL, SIGINT and
// SIGTERM end the machine. Its exit is published after those of all members, also when
// the machine ends by itself. A member that cannot be started, or is killed, ends alone;
// but a guest that does not answer when it is to take one out has its machine destroyed:
// whoever made the pod can then make it anew. Members leave a record in the pod's
// directory, by which the keeper's "delete" cleans up after a shim that died (records.go).
//
// # Who decides the exit
//
// One goroutine a container, watch, waits for whatever comes first: the
// guest's report of its process, or the end of the sandbox. It alone records
// the exit status, once:
//
//	the guest reported            its status
//	killed (SIGKILL)              137
//	hypervisor killed or crashed  137
//	program could not be started  127 not found, 126 not executable
//	guest ended without a word    255, with the reason and the console's last lines in the log
//
// TaskExit is sent at once; output still on its way is drained, the sandbox left
// and, with its last container, ended after that.
//
// # Who waits for whom
//
// A guest or a hypervisor that does not answer keeps no client waiting: what the
// guest is told is accepted after a while, and done when it goes on (see asker);
// a start, a pause and its end go on when their client has gone, and the state
// says what is under way. SIGKILL needs nobody's answer.
//
// The shim ends when it is told to and has no container, and by itself when it
// had none for IdleTimeout. A container that is deleted while it is being
// created is given up. Told to end by a signal, the shim takes its containers
// with it.
//
// # Exec
//
// A further process has a machine of states of its own: created, running,
// stopped. Its exit is always published before that of the first process.
package task
