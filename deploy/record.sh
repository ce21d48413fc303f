#!/usr/bin/env bash
# record.sh OUTDIR: writes OUTDIR/guest.json, which says what the guest in OUTDIR was
# made from and what it is, for "uni version -o json" and "uni check".
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: record.sh OUTDIR}

digest() { sha256sum <"$1" | cut -d' ' -f1; }

# The one that the kernel's build takes.
source=${UNI_KERNEL_SOURCE:-$(sed -n 's/^source=${UNI_KERNEL_SOURCE:-\(.*\)}$/\1/p' unikernel/linux/kernel/build.sh)}
package=$(basename "$source" .tar.xz)
version=$(dpkg-query -W -f '${Version}' "$package" 2>/dev/null || echo unknown)
kernel=$(digest "$out/vmlinux")
same=$(printf '"package": "%s", "version": "%s", "sha256": ' "$package" "$version")
# Of 150 MB: once for each source.
if grep -qF "$same" "$out/guest.json" 2>/dev/null; then
	sum=$(sed -n "s/.*$same\"\\([0-9a-f]*\\)\".*/\\1/p" "$out/guest.json")
else
	sum=$(digest "$source")
fi
cat >"$out/guest.json.new" <<EOF
{
  "kernel": {
    "file": "vmlinux", "sha256": "$kernel", "config_sha256": "$(digest "$out/kernel.config")",
    "source": {"package": "$package", "version": "$version", "sha256": "$sum"}
  },
  "initrd": {"file": "initrd.img", "sha256": "$(digest "$out/initrd.img")", "go": "$(go env GOVERSION)"},
  "version": "${VERSION:-unknown}"
}
EOF
mv "$out/guest.json.new" "$out/guest.json"
