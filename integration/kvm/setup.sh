# Makes L1 a host of the runtime, as an administrator would: modules, the
# device's group (udev does not run), the installed programs. It fails where
# anything else than KVM would run the machines.
set -e
mkdir -p /opt/uni
mount /dev/vdb /opt/uni
for m in kvm-amd tun vhost_net overlay fuse; do modprobe $m; done
chgrp kvm /dev/kvm
chmod 660 /dev/kvm


# L1's kernel is not to patch its own code while tests run. It does so whenever a
# static key gets its first user or loses its last one, and QEMU's emulation
# before 8.1, which does not lock a page before it translates it, loses that now
# and then: a processor that translates the place while the other one patches it
# goes on with the breakpoint that stood there for a moment, for ever. So each
# such key keeps a user: machines of KVM's with and without an APIC of its own
# (preempt_notifier_key, in the scheduler, apic_sw_disabled, kvm_has_noapic_vcpu),
# a limit of processor time (__cfs_bandwidth_used), filters of frames
# (ingress_needed_key, egress_needed_key).
for irqchip in on off; do
	setsid qemu-system-x86_64 -machine pc,accel=kvm,kernel-irqchip=$irqchip -S -m 16 \
		-nodefaults -no-user-config -display none </dev/null >/run/held.$irqchip 2>&1 &
done
mkdir /sys/fs/cgroup/held
echo '100000 100000' >/sys/fs/cgroup/held/cpu.max
ip link add held type dummy
tc qdisc add dev held clsact

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
[ "$(ls -l /proc/[0-9]*/fd 2>/dev/null | grep -c anon_inode:kvm-vcpu)" = 2 ] || { cat /run/held.*; echo "no machines that stay"; exit 1; }
