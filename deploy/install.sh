#!/usr/bin/env bash
# Copies out/bin and out/guest to where a distribution would have them.
# The configuration is written only where there is none.
set -euo pipefail
cd "$(dirname "$0")/.."
root=${DESTDIR:-}
prefix=${PREFIX:-/usr/local}

install -D -m 755 -t "$root$prefix/bin" out/bin/{containerd-shim-uni-v1,uni-shim,uni}
install -D -m 644 -t "$root$prefix/lib/uni/linux" out/guest/{vmlinux,initrd.img,guest.json,kernel.config}
echo "installed $root$prefix/bin/{containerd-shim-uni-v1,uni-shim,uni} and $root$prefix/lib/uni/linux/{vmlinux,initrd.img,guest.json,kernel.config}"

config=$root/etc/uni/config.toml
if [ -e "$config" ]; then
	echo "kept $config"
else
	install -d "$(dirname "$config")"
	sed "s|/usr/local/lib/uni/|$prefix/lib/uni/|g" config/config.toml >"$config"
	chmod 644 "$config"
	echo "wrote $config"
fi

# The first container would wait for it: libvirt asks QEMU what it can do, once.
# Only where this is the machine that it will run on.
if [ -z "$root" ] && [ "$(id -u)" = 0 ]; then
	"$prefix/bin/containerd-shim-uni-v1" warm
fi
