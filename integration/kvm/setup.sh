# Makes L1 a host of the runtime, as an administrator would: modules, the
# device's group (udev does not run), the installed programs. It fails where
# anything else than KVM would run the machines.
set -e
mkdir -p /opt/uni
mount /dev/vdb /opt/uni
for m in kvm-amd tun vhost_net overlay fuse; do modprobe $m; done
chgrp kvm /dev/kvm
chmod 660 /dev/kvm
cp -a /opt/uni/root/. /
for c in memory cpu pids; do
	grep -qw $c /sys/fs/cgroup/cgroup.subtree_control || { echo "no cgroup controller $c"; exit 1; }
done
echo "kernel $(uname -r), $(nproc) processors, QEMU $(qemu-system-x86_64 --version | sed -n '1s/.*version \([0-9.]*\).*/\1/p'), libvirt $(libvirtd --version | sed 's/.* //')"
containerd-shim-uni-v1 warm
uni config check
uni check | tee /run/uni-check
grep -q '^accel = "kvm"' /etc/uni/config.toml || { echo "the configuration does not insist on KVM"; exit 1; }
grep -q 'KVM runs a virtual CPU' /run/uni-check || { echo "KVM does not run a virtual CPU"; exit 1; }
