// Package leak finds what a container left on the host: processes, mounts,
// loop devices, cgroups, network links, sockets and files. It knows the names
// a run uses and looks at the host alone; it asks neither containerd nor
// libvirt.
package leak
