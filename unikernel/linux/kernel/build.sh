#!/usr/bin/env bash
# Builds the kernel of the linux guest from Debian's kernel source package, the
# option list beside this script, and machine.c, which is added to the source.
#
#   build.sh OUTDIR     puts vmlinux (stripped ELF, for PVH boot) and
#                       kernel.config into OUTDIR
#
# The result is kept under ~/.cache/containerd-shim-uni/kernel/KEY, where KEY
# is the digest of everything that goes into it; a second call only copies.
# Needs: linux-source-6.12 flex bison libelf-dev bc xz-utils (deploy/packages).
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
out=${1:?usage: build.sh OUTDIR}
source=${UNI_KERNEL_SOURCE:-/usr/src/linux-source-6.12.tar.xz}
[ -f "$source" ] || {
	echo "build.sh: $source is missing: apt-get install linux-source-6.12, or name a kernel source tar.xz in UNI_KERNEL_SOURCE" >&2
	exit 1
}

# The archive's digest would take a second for each call: its size and the
# package's version say the same.
version=$(dpkg-query -W -f '${Version}' "$(basename "$source" .tar.xz)" 2>/dev/null || stat -c %Y "$source")
key=$({ echo "$version $(stat -c %s "$source")"; cat "$here/uni.config" "$here/machine.c" "$here/build.sh"; } | sha256sum | cut -c1-16)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/containerd-shim-uni/kernel
done=$cache/$key

if [ ! -f "$done/vmlinux" ]; then
	mkdir -p "$cache"
	exec 9>"$cache/lock"
	flock 9
fi
if [ ! -f "$done/vmlinux" ]; then
	work=$(mktemp -d "$cache/build.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	log=$cache/build.log
	echo "building the guest kernel ($(basename "$source" .tar.xz) $version), about five minutes, once; log: $log"
	{
		mkdir "$work/src" "$work/obj" "$work/out"
		tar -xf "$source" -C "$work/src" --strip-components=1
		cp "$here/machine.c" "$work/src/arch/x86/kernel/uni_machine.c"
		echo 'obj-y += uni_machine.o' >>"$work/src/arch/x86/kernel/Makefile"
		# Fixed names and times: the same input gives the same bytes.
		export KBUILD_BUILD_USER=uni KBUILD_BUILD_HOST=uni KBUILD_BUILD_VERSION=1 KBUILD_BUILD_TIMESTAMP='Thu Jan  1 00:00:00 UTC 1970'
		make -C "$work/src" O="$work/obj" KCONFIG_ALLCONFIG="$here/uni.config" allnoconfig
		make -C "$work/src" O="$work/obj" -j"$(nproc)" vmlinux
		strip -s -o "$work/out/vmlinux" "$work/obj/vmlinux"
		cp "$work/obj/.config" "$work/out/kernel.config"
	} >"$log" 2>&1 &
	build=$!
	start=$SECONDS
	while kill -0 "$build" 2>/dev/null; do
		sleep 5
		if (( (SECONDS - start) % 30 < 5 )); then
			echo "  $(( SECONDS - start )) s, $(grep -c '^  CC ' "$log" || true) of about 1150 files compiled"
		fi
	done
	if ! wait "$build"; then
		tail -n 20 "$log" >&2
		echo "build.sh: the kernel did not build; the whole log is $log" >&2
		exit 1
	fi
	chmod 755 "$work/out"
	rm -rf "$done"
	mv "$work/out" "$done"
	echo "guest kernel built in $(( SECONDS - start )) s"
fi
mkdir -p "$out"
for f in vmlinux kernel.config; do
	cmp -s "$done/$f" "$out/$f" || install -m 644 "$done/$f" "$out/$f"
done
