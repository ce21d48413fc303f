// Bench measures what a container as a virtual machine costs, and prints a
// table:
//
//   - a cold "ctr run --rm" of a static hello against runc, interleaved;
//   - where the time of one goes, stage by stage;
//   - the boot of the same kernel and disk in a bare QEMU, and what is ours on top;
//   - how many instructions a boot takes, whatever the host's load;
//   - both runtimes in an emulated machine that has KVM, see package kvm;
//   - the host memory of a running machine beyond the guest's own RAM;
//   - with UNI_NANOS_DIR, the same of nanos on microvm and q35;
//   - pods of three containers, driven through containerd's CRI: each part of their life,
//     what they write to an emptyDir, the memory of idle ones, with -pods many at once;
//   - the time from a 100 MB image to a disk;
//   - latency and throughput of its network, against the bare tap and runc, and
//     of both guests if UNI_NANOS_DIR names a directory with a Nanos kernel.
//
// It measures from outside: files that appear, containerd's events, the first
// byte of output. It needs root, out/ ("make build guest") and the newest
// containerd of integration/peers.sh, and has that containerd to itself.
package main
