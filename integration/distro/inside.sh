#!/usr/bin/env bash
# Process 1 of namespaces that integration/distro.sh made:
#
#   inside.sh TREE RUN COMMAND…
#
# mounts what a machine has below the release's TREE, or below a layer over it in
# the folder RUN ("-": none), and runs the command in it. Ends with its status;
# then the kernel ends every process of the namespace and undoes the mounts.
set -euo pipefail
tree=$1 run=$2
shift 2

# The cgroup namespace begins at the run's own group. In version 2 that may then
# hold no process, or it cannot hand controllers on: who waits for process 1, and
# is none of this namespace's, is in the group "outside" below it.
if [ "$run" != - ] && [ -z "${GROUPS_APART:-}" ]; then
	for dir in $(findmnt -rno TARGET -t cgroup2); do
		echo 1 >"$dir/$NAME/cgroup.procs"
	done
	GROUPS_APART=1 exec unshare --cgroup "$0" "$tree" "$run" "$@"
fi

if [ "$run" = - ]; then
	root=$tree
	mount --bind "$tree" "$root"
else
	root=$run/root
	mount -t overlay overlay -o "lowerdir=$tree,upperdir=$run/upper,workdir=$run/work" "$root"
fi
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t tmpfs -o mode=755 run "$root/run"
mkdir -p "$root/run/lock"

# Devices: nodes of the tree's own, so that nobody changes the owner of the host's.
mount -t tmpfs -o mode=755 dev "$root/dev"
for node in null zero full random urandom tty kvm vhost-net vhost-vsock; do
	[ ! -e "/dev/$node" ] || cp -a "/dev/$node" "$root/dev/$node"
done
mkdir "$root"/dev/{pts,shm,net}
mknod -m 666 "$root/dev/net/tun" c 10 200
mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
for fd in 0:stdin 1:stdout 2:stderr; do
	ln -s "/proc/self/fd/${fd%:*}" "$root/dev/${fd#*:}"
done

# cgroups: ours alone, as if there were no others.
unified() {
	# Ours goes one down.
	mkdir "$1/init"
	echo 1 >"$1/init/cgroup.procs"
	for controller in cpuset cpu io memory pids; do
		echo "+$controller" >"$1/cgroup.subtree_control" 2>/dev/null || true
	done
}

if [ "$run" != - ]; then
	ip link set lo up
	if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
		mount --bind "/sys/fs/cgroup/$NAME" "$root/sys/fs/cgroup"
		unified "$root/sys/fs/cgroup"
	else
		mount -t tmpfs -o mode=755 cgroup "$root/sys/fs/cgroup"
		for dir in /sys/fs/cgroup/*; do
			if [ -L "$dir" ]; then
				cp -P "$dir" "$root$dir" # cpu, of cpu,cpuacct
			elif [ -d "$dir/$NAME" ]; then
				mkdir "$root$dir"
				mount --bind "$dir/$NAME" "$root$dir"
			fi
		done
	fi
	for dir in tmp var/tmp var/lib/uni var/lib/containerd; do
		mkdir -p "$root/$dir"
		mount --bind "$run/disk/$dir" "$root/$dir"
	done
	# share FROM TO [ro]
	share() {
		mkdir -p "$root$2"
		mount --bind "$1" "$root$2"
		[ $# -lt 3 ] || mount -o "remount,bind,$3" "$root$2"
	}
	share "$GOROOT" /usr/local/go ro
	share "$GOMODCACHE" /root/go/pkg/mod ro
	share "$STORE/gocache" /root/.cache/go-build
	share "$STORE/kernel" /root/.cache/containerd-shim-uni/kernel
	share "$CACHE/images" /root/.cache/containerd-shim-uni/images
fi

# Not chroot: who enters a mount namespace is at its root, as libvirt is when it
# makes a machine's devices.
cd "$root"
mkdir -p run/host
pivot_root . run/host
cd /
hash -r
umount -l /run/host
rmdir /run/host
# Not exec: process 1 reaps what others leave.
env -i HOME=/root TERM="${TERM:-dumb}" LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
	${http_proxy:+http_proxy="$http_proxy"} ${KERNEL:+KERNEL="$KERNEL"} "$@" || exit
