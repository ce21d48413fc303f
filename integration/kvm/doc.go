// Package kvm boots a machine that has /dev/kvm on a host that has none.
//
// QEMU emulates AMD's SVM with nested paging: a Debian under emulation loads
// kvm_amd, and what runs in its machines is real KVM, if slow. So the KVM half
// of the runtime is tested on any host. Intel's VMX is not emulated.
//
// The outer machine, L1, is Debian of the host's release. NewRoot makes its
// disk once and keeps it in the cache; Payload.New makes a second disk with the
// built programs, tests and containerd versions; Start boots both, unchanged
// by what runs (snapshot=on). A directory is shared with it over 9p: Run puts a
// script there, and init.sh, which is L1's first process, runs it.
//
//	host                        L1 (emulated, has /dev/kvm)     L2
//	root.img, payload.img  ->   Debian, the runtime        ->   a container's machine
//	share/cmd.N            ->   init.sh runs it
//	share/out.N, rc.N      <-
//
// L1 has cgroup version 2 with controllers and no systemd, which many hosts
// that tests run on have not. Its times say nothing about a host, ratios of
// them do. Package integration/cmd/kvm has the list of what is run in it.
package kvm
