// Package frontend is the shim's command line, as containerd calls it.
//
//	start    makes the shim of a container's group, or finds the one that is
//	         there, and prints its address
//	delete   cleans up what is left of a container whose shim is gone
//	(none)   is the shim: serves the task service until it is shut down
//	warm     fills the caches that the first container would wait for; for
//	         the installation, and after upgrades of QEMU or libvirt
//	-info    describes the runtime
//	-v       prints the version
//
// containerd 1.6, 1.7 and 2.x are served alike. They differ in what they write
// to standard input of start: 2.3 and later send BootstrapParams, earlier ones
// the runtime options alone. All accept the bare address on standard output,
// and all read standard error together with it, so start prints nothing else.
package frontend
