#!/usr/bin/env bash
# Shows a container running as a virtual machine. Runs after "make install".
#
# The demo has a containerd of its own below a temporary directory, so that the
# machine's own containerd, if there is one, is neither needed nor disturbed.
# Everything it started is stopped at the end; with KEEP=1 it goes on running.
set -euo pipefail
cd "$(dirname "$0")/.."
runtime=io.containerd.uni.v1
image=uni.local/busybox:latest
archive=out/demo/busybox.tar
prefix=${PREFIX:-/usr/local}
export PATH=$prefix/bin:$PATH

say() { printf '\n== %s\n' "$*"; }
fail() { echo "demo: $*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || fail "root is needed"

dir=$(mktemp -d /tmp/uni-demo.XXXXXX)
containerd=
stop() {
	local status=$?
	[ $status = 0 ] || grep -v "level=info" "$dir/containerd.log" | tail -n 8 >&2 || true
	if [ "${KEEP:-}" = 1 ] && [ $status = 0 ]; then
		say "KEEP=1: this containerd goes on"
		echo "  ctr --address $dir/containerd.sock …     talks to it, its log is $dir/containerd.log"
		echo "  kill $containerd; rm -r $dir     ends it"
		return
	fi
	if [ -n "$containerd" ]; then
		ctr tasks ls -q | while read -r id; do ctr tasks delete -f "$id" || true; done
		kill "$containerd" && wait "$containerd" || true
	fi
	rm -rf "$dir"
	exit $status
}
trap stop EXIT

ctr() { command ctr --address "$dir/containerd.sock" "$@"; }

say "this machine, as \"uni check\" sees it"
uni check

say "containerd: $(containerd --version | cut -d' ' -f3), for this demo alone, below $dir"
cat >"$dir/config.toml" <<TOML
version = 2
root = "$dir/root"
state = "$dir/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
  address = "$dir/containerd.sock"
TOML
containerd --config "$dir/config.toml" >"$dir/containerd.log" 2>&1 &
containerd=$!
for _ in $(seq 100); do
	ctr version >/dev/null 2>&1 && break
	kill -0 "$containerd" 2>/dev/null || fail "containerd ended"
	sleep 0.1
done

say "image: $image, made from Debian's busybox-static"
mkdir -p out/demo
go run -buildvcs=false ./integration/cmd/mkimage -name "$image" "$archive"
ctr images import "$archive"

# show [STATUS] ARGS…: ctr run, with the command as a user would type it.
n=0
show() {
	local want=$1 status=0
	shift
	n=$((n + 1))
	echo
	printf '$ ctr run --rm --runtime %s %s demo%d' "$runtime" "$image" "$n"
	for a in "$@"; do
		case $a in *[!a-z-]*) printf ' %s' "${a@Q}" ;; *) printf ' %s' "$a" ;; esac
	done
	echo
	ctr run --rm --runtime "$runtime" "$image" "demo$n" "$@" || status=$?
	[ "$status" = "$want" ] || fail "exit status $status, expected $want"
}

say "containers, each a virtual machine with a kernel of its own"
echo
echo "the host:  $(uname -srm)"
show 0 uname -a
show 7 sh -c 'echo "this is stdout"; echo "this is stderr" >&2; exit 7'
echo "exit status: 7"
show 0 sh -c 'echo "process $$ of $(ls -d /proc/[0-9]* | wc -l), $(head -n 1 /proc/meminfo)"'
echo
echo "\$ echo hello | ctr run --rm --runtime $runtime $image demo4 cat"
answer=$(echo hello | ctr run --rm --runtime "$runtime" "$image" demo4 cat)
echo "$answer"
[ "$answer" = hello ] || fail "what went in did not come back"

say "it works. To go on by hand, with the machine's own containerd:"
if [ -d /run/systemd/system ]; then
	echo "  systemctl start containerd"
else
	echo "  containerd &"
fi
cat <<HINT
  ctr images import $PWD/$archive
  ctr run --rm -t --runtime $runtime $image c1 sh
Settings are in /etc/uni/config.toml; ctr and nerdctl need none of their own.
HINT
