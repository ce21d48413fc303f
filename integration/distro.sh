#!/usr/bin/env bash
# Tries the runtime on a Debian release, in a tree of its own below this
# machine's kernel (root; no systemd runs in it):
#
#   distro.sh RELEASE          as a newcomer would: packages, build, install,
#                              demo; then the tests
#   distro.sh RELEASE short    this checkout's own programs, installed, and the
#                              most telling tests; for "make test"
#   distro.sh RELEASE shell    a shell where the tests would run
#
# With KERNEL=host the first form takes the guest's kernel from out/guest instead of
# building it there, which is most of its time when it is run first.
#
# RELEASE is a codename, such as trixie. The tree comes from where this machine
# gets its packages, is kept below ~/.cache/containerd-shim-uni/distro/RELEASE
# and never written to but to install packages; remove it to have it made anew.
# A run has a layer over it, namespaces (mount, process, network, IPC, host name,
# cgroup) and a cgroup of its own, all of which go with it.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
source integration/distro/tree.sh

release=${1:?usage: distro.sh RELEASE [short|shell]} form=${2:-full}
case $form in full | short | shell) ;; *) echo "distro.sh: no form $form" >&2 && exit 2 ;; esac
[ "$(id -u)" = 0 ] || { echo "distro.sh: root is needed" >&2; exit 1; }
cache=${XDG_CACHE_HOME:-$HOME/.cache}/containerd-shim-uni
store=$cache/distro/$release tree=$cache/distro/$release/tree
name=uni-distro.$$

say() { printf '== %s: %s (%d s)\n' "$release" "$*" "$SECONDS"; }

mkdir -p "$store"
exec 9>"$store/lock"
flock 9
for old in "$store"/run.*; do # of a run that was killed: nothing of it is mounted any more
	rm -rf "$old" "$store"/kernel/build.*
done
for old in /sys/fs/cgroup/{,*/}uni-distro.*; do
	[ ! -d "$old" ] || [ -d "/proc/${old##*.}" ] || find "$old" -depth -type d -exec rmdir {} +
done
obtain

run=$(mktemp -d "$store/run.XXXXXX")
finish() {
	local status=$?
	trap - EXIT
	leave || status=1
	if [ $status != 0 ] && [ -d "$run/disk/tmp/logs" ]; then
		rm -rf "$store/logs" && cp -a "$run/disk/tmp/logs" "$store/logs" && echo "logs are in $store/logs" >&2
	fi
	rm -rf "$run"
	exit $status
}
trap finish EXIT
prepare
say "the tests' binaries"
binaries
GOROOT=$(go env GOROOT) GOMODCACHE=$(go env GOMODCACHE)
export GOROOT GOMODCACHE
enter bash /usr/src/containerd-shim-uni/integration/distro/tests.sh "$form"
say "all is well"
