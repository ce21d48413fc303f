// Package volume sorts out which bind mounts of containers a machine has in its own
// memory, as volumes, and keeps those as they are on the host:
//
//	single    a file that a client or the kubelet made for the container: hosts,
//	          hostname, resolv.conf
//	followed  a directory of a ConfigMap, a Secret, a projection or the downward API
//	copied    a part of one (subPath): as it was when the container was made
//	memory    a tmpfs that was made for the pod: an emptyDir of medium Memory,
//	          /dev/shm. What is in it is the containers'; nothing is copied
//
// All else, and whatever is too large, is for package share. A machine that has but
// volumes needs no virtiofsd, and what follows the host does so by events: a program
// that watches its configuration by inotify gets them, which a shared directory
// cannot give.
//
// A Set are the volumes of one machine, which live as long as it does; a Group is
// what one container has of them. One inotify instance and two goroutines follow
// the host for a Set, until Close.
package volume
