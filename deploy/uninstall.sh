#!/usr/bin/env bash
# Removes what deploy/install.sh put there. /etc/uni stays, and so does
# /var/lib/uni, the cache of disks.
set -euo pipefail
root=${DESTDIR:-}
prefix=${PREFIX:-/usr/local}

rm -f "$root$prefix/bin/"{containerd-shim-uni-v1,uni-shim,uni}
rm -rf "$root$prefix/lib/uni"
echo "removed the programs and the guest from $root$prefix; kept $root/etc/uni and $root/var/lib/uni"
