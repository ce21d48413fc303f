#!/usr/bin/env bash
# Makes the user that Debian's libvirt runs QEMU as. libvirt's driver does not
# start without it, embedded or not: the name is compiled in. Debian 12 makes it
# in libvirt-daemon-system, which also brings a running daemon and a bridge that
# nobody here needs; names, numbers and groups are that package's, so that it
# can be installed later. Debian 13 makes it in libvirt-daemon-driver-qemu: then
# this says and does nothing.
set -euo pipefail

[ -n "$(getent passwd libvirt-qemu)" ] && [ -n "$(getent group libvirt-qemu)" ] && exit
echo "making the user libvirt-qemu, as libvirt-daemon-system does"
if [ "$(id -u)" != 0 ]; then
	echo "qemu-user.sh: root is needed to make the user libvirt-qemu" >&2
	exit 1
fi
PATH=$PATH:/usr/sbin
getent group kvm >/dev/null || addgroup --quiet --system kvm
getent passwd libvirt-qemu >/dev/null ||
	adduser --quiet --system --ingroup kvm --no-create-home --home /var/lib/libvirt --uid 64055 --gecos "Libvirt Qemu" libvirt-qemu
getent group libvirt-qemu >/dev/null || addgroup --quiet --system --gid 64055 libvirt-qemu
id -nG libvirt-qemu | grep -qw libvirt-qemu || adduser --quiet libvirt-qemu libvirt-qemu
