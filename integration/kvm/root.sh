#!/usr/bin/env bash
# root.sh DIR: makes the disk, kernel and initial RAM disk of the machine that
# has /dev/kvm, in DIR: root.img, vmlinuz, initrd.img. Debian of the same
# release as this host, from the mirrors that this host's apt is configured
# with, and with its proxies. Needs root, about 4 minutes and 2 GB; it leaves
# all three files or none.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
dir=$1

# In a mount namespace of its own: nothing stays mounted, whatever happens.
if [ -z "${UNI_OWN_MOUNTS:-}" ]; then
	for p in debootstrap mke2fs apt-get chroot; do
		command -v "$p" >/dev/null || { echo "root.sh: $p is missing: apt-get install debootstrap e2fsprogs" >&2; exit 1; }
	done
	UNI_OWN_MOUNTS=1 exec unshare --mount --propagation private "$0" "$@"
fi

mkdir -p "$dir"
work=$(mktemp -d "$dir/make.XXXXXX")
tree=$work/tree
trap 'umount -l "$tree/proc" 2>/dev/null || true; rm -rf --one-file-system "${work:?}"' EXIT

release=$(. /etc/os-release && echo "$VERSION_CODENAME")
# One line an archive: its address, suite and component.
sources=$(apt-get indextargets --format '$(ORIGIN) $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
	awk -v release="$release" '$1 == "Debian" && index($3, release) == 1 { print $2, $3, $4 }' | sort -u)
mirror=$(awk -v release="$release" '$2 == release && $3 == "main" { print $1; exit }' <<<"$sources")
if [ -z "$mirror" ]; then
	echo "root.sh: apt knows no archive of Debian $release; is this Debian, and was apt-get update run?" >&2
	exit 1
fi

debootstrap --variant=minbase "$release" "$tree" "$mirror"
sed 's/^/deb /' <<<"$sources" >"$tree/etc/apt/sources.list"
apt-config dump | grep -E '^Acquire::(https?::)?Proxy' >"$tree/etc/apt/apt.conf.d/90proxy" || true
cat >"$tree/etc/dpkg/dpkg.cfg.d/small" <<'CFG'
force-unsafe-io
force-confold
path-exclude=/usr/share/doc/*
path-exclude=/usr/share/man/*
path-exclude=/usr/share/locale/*
CFG
# No service starts while packages are installed.
printf '#!/bin/sh\nexit 101\n' >"$tree/usr/sbin/policy-rc.d"
chmod 755 "$tree/usr/sbin/policy-rc.d"
# The initial RAM disk holds what finds the root and nothing else.
mkdir -p "$tree/etc/initramfs-tools/conf.d"
echo MODULES=list >"$tree/etc/initramfs-tools/conf.d/small"
printf '%s\n' virtio_pci virtio_blk virtio_rng ext4 >"$tree/etc/initramfs-tools/modules"

mount -t proc proc "$tree/proc"
# What the runtime and its tests need, as on any host, and what makes it a
# machine. No compilers: everything is built outside.
mkdir "$tree/root/deploy"
cp "$here"/../../deploy/{deps,qemu-user}.sh "$tree/root/deploy"
{
	sed -n '/^# running/,$p' "$here/../../deploy/packages"
	printf '%s\n' linux-image-amd64 initramfs-tools udev
} >"$tree/root/deploy/packages"
chroot "$tree" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C bash -ec '
	/root/deploy/deps.sh
	apt-get clean
	rm -rf /var/lib/apt/lists/* /root/deploy
'
umount "$tree/proc"
# The first process is what the host shares: see init.sh.
cat >"$tree/sbin/kvm-init" <<'INIT'
#!/bin/bash
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
modprobe 9pnet_virtio
mkdir -p /share
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=none share /share && exec bash /share/init.sh
echo "kvm-init: nothing is shared"
INIT
chmod 755 "$tree/sbin/kvm-init"

cp "$(echo "$tree"/boot/vmlinuz-*)" "$work/vmlinuz"
cp "$(echo "$tree"/boot/initrd.img-*)" "$work/initrd.img"
mke2fs -q -t ext4 -O ^has_journal -E lazy_itable_init=1 -d "$tree" "$work/root.img" 6G
mv "$work"/{root.img,vmlinuz,initrd.img} "$dir"
