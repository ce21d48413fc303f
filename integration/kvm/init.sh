# The first process of the machine that has /dev/kvm, started by /sbin/kvm-init
# (root.sh), which mounted /proc, /sys and /share. It prepares what systemd
# would, and runs what the host puts into the shared directory: cmd.1, cmd.2, …,
# each to its end. What a command prints is in out.N, its status in rc.N.
export HOME=/root LC_ALL=C.UTF-8
mountpoint -q /dev || mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs -o mode=755 run /run
mkdir -p /run/lock /run/netns
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -o remount,rw /
ip link set lo up
hostname kvm

# Processes are in a group of their own: only a group without any delegates.
mkdir /sys/fs/cgroup/init
echo $$ >/sys/fs/cgroup/init/cgroup.procs
for c in $(cat /sys/fs/cgroup/cgroup.controllers); do
	echo "+$c" >/sys/fs/cgroup/cgroup.subtree_control
done

n=1
while true; do
	if [ -e /share/cmd.$n ]; then
		bash /share/cmd.$n >/share/out.$n 2>&1 </dev/null
		echo $? >/share/rc.new
		mv /share/rc.new /share/rc.$n
		n=$((n + 1))
	else
		sleep 0.2
	fi
done
