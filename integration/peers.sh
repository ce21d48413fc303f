#!/usr/bin/env bash
# Prepares the containerd versions the tests run against, each in a directory
# of its own with containerd, ctr and containerd-shim-runc-v2, and the clients:
# nerdctl with CNI's plugins, crictl with critest.
#
#   peers.sh            prepares what is missing; quiet when nothing is
#   peers.sh --dir      prints the directory that holds them and does nothing
#
# 1.6.20 is Debian 12's package; 1.7.34 and 2.4.2 are built from their modules
# (about two minutes each on two cores, once).
set -euo pipefail

peers=${XDG_CACHE_HOME:-$HOME/.cache}/containerd-shim-uni/peers
if [ "${1:-}" = --dir ]; then
	echo "$peers"
	exit
fi
programs="containerd ctr containerd-shim-runc-v2"
# Plugins no test uses and that want headers of their own.
tags=no_btrfs,no_devmapper,no_zfs,no_aufs

mkdir -p "$peers"
exec 9>"$peers/lock"
flock 9

# complete DIR: every program is there.
complete() {
	local p
	for p in $programs; do
		[ -x "$1/$p" ] || return 1
	done
}

# build VERSION MODULE: through a module that only requires it, because
# "go install" refuses a main module with exclude lines, as 1.7's is.
build() {
	local version=$1 module=$2 work
	complete "$peers/$version" && return
	echo "building containerd $version, about two minutes, once"
	work=$(mktemp -d "$peers/build.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	(
		cd "$work"
		export GOFLAGS=-mod=mod CGO_ENABLED=0
		go mod init peer 2>/dev/null
		mkdir bin
		for p in $programs; do
			go get "$module/cmd/$p@v$version" 2>>get.log || { cat get.log >&2; exit 1; }
		done
		for p in $programs; do
			go build -trimpath -tags "$tags" -o "bin/$p" \
				-ldflags "-s -w -X $module/version.Version=v$version" "$module/cmd/$p"
		done
	)
	rm -rf "${peers:?}/$version"
	mv "$work/bin" "$peers/$version"
	rm -rf "$work"
	trap - EXIT
}

# packaged VERSION: the distribution's own, which must be that version.
packaged() {
	local version=$1 p
	complete "$peers/$version" && return
	if ! containerd --version 2>/dev/null | grep -q "[ v~]$version"; then
		echo "peers.sh: this test needs containerd $version, Debian 12's package; installed is: $(containerd --version 2>&1)" >&2
		exit 1
	fi
	mkdir -p "$peers/$version"
	for p in $programs; do
		ln -sf "$(command -v "$p")" "$peers/$version/$p"
	done
}

# tools: the clients and network plugins of the network tests.
nerdctl=2.0.4
plugins=v1.9.1
tools() {
	local work p dir=$peers/tools-$nerdctl-$plugins
	[ -x "$dir/tuning" ] && return
	echo "building nerdctl $nerdctl and the CNI plugins, about two minutes, once"
	work=$(mktemp -d "$peers/build.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	(
		cd "$work"
		export GOFLAGS=-mod=mod CGO_ENABLED=0
		mkdir bin
		for m in github.com/containerd/nerdctl/v2/cmd/nerdctl@v$nerdctl \
			github.com/containernetworking/plugins/plugins/{main/{loopback,bridge,ptp,macvlan},ipam/{host-local,static},meta/{portmap,firewall,tuning}}@$plugins; do
			p=${m%@*}
			rm -f go.mod go.sum
			go mod init peer 2>/dev/null
			go get "$m" 2>get.log || { cat get.log >&2; exit 1; }
			go build -trimpath -o "bin/${p##*/}" -ldflags "-s -w" "$p"
		done
	)
	rm -rf "$peers"/tools-*
	mv "$work/bin" "$dir"
	rm -rf "$work"
	trap - EXIT
}

# cri: the client of the container runtime interface, and the tests that its
# authors wrote for runtimes.
critools=v1.36.0
cri() {
	local work dir=$peers/cri-$critools m=sigs.k8s.io/cri-tools/cmd
	[ -x "$dir/critest" ] && return
	echo "building crictl and critest $critools, about a minute, once"
	work=$(mktemp -d "$peers/build.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	(
		cd "$work"
		export GOFLAGS=-mod=mod CGO_ENABLED=0
		mkdir bin
		go mod init peer 2>/dev/null
		go get "$m/crictl@$critools" "$m/critest@$critools" 2>get.log || { cat get.log >&2; exit 1; }
		go build -trimpath -o bin/crictl -ldflags "-s -w" $m/crictl
		go test -c -trimpath -o bin/critest -ldflags "-s -w" $m/critest 2>>get.log || { cat get.log >&2; exit 1; }
	)
	rm -rf "$peers"/cri-*
	mv "$work/bin" "$dir"
	rm -rf "$work"
	trap - EXIT
}

packaged 1.6.20
build 2.4.2 github.com/containerd/containerd/v2
build 1.7.34 github.com/containerd/containerd
tools
cri
