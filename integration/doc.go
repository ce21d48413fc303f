// Package integration tests the built programs as a user meets them: real
// containerd of three versions, real libvirt, real QEMU, driven through ctr.
//
// Its rooms: peer runs a private containerd, image writes the archives that
// are imported, leak looks for what was left behind, bench measures, soak lets
// many containers live and die, and cmd/testsum counts what every test run
// reported.
//
// The tests need root and what "make build guest peers" prepares. They never
// touch /etc/uni, /var/lib/uni or the machine's own containerd.
// Environment variables narrow a run:
//
//	UNI_TEST_PEERS    containerd versions, separated by commas; default all
//	UNI_TEST_RUNTIME  runtime under test, default io.containerd.uni.v1; with
//	                  io.containerd.runc.v2 the same expectations are put to runc
//	UNI_TEST_KEEP     not empty: the run's directory with every log is kept
//	UNI_TEST_ACCEL    libvirt.accel of every configuration; kvm refuses emulation
//	UNI_TEST_FAULTS   "all": whatever of a pod can die does at every moment
//	UNI_TEST_TEMPLATE "off": every machine boots; "made": there are templates
//	                  from the beginning; default: the first machine of a shape
//	                  boots, others go on from its template
//	UNI_TEST_PATIENCE how many times longer to wait for clients and for what is
//	                  left behind to go, on a slow host; default 1
//	UNI_TEST_PROGRAMS directory with the programs that images are made of, for
//	                  a host without compilers, see image.BuildAll
//
// A host with KVM is had by package kvm; cmd/kvm runs a choice of these tests in it.
package integration
