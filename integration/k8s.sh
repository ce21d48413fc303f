#!/usr/bin/env bash
# Builds the programs of a Kubernetes node, and etcd, from the Go module proxy:
#
#   k8s.sh            builds what is missing; quiet when nothing is
#   k8s.sh --dir      prints the directory that holds them and does nothing
#
# About a quarter of an hour on two cores, once.
set -euo pipefail

version=1.37.2 # its libraries are v0.37.2
etcd=v3.7.0    # what this Kubernetes names in its go.mod
dir=${XDG_CACHE_HOME:-$HOME/.cache}/containerd-shim-uni/kubernetes/$version
if [ "${1:-}" = --dir ]; then
	echo "$dir"
	exit
fi
programs="kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl"

mkdir -p "$dir"
exec 9>"$dir/lock"
flock 9
for p in etcd $programs; do
	[ -x "$dir/$p" ] || missing=1
done
[ "${missing:-}" ] || exit 0

echo "building Kubernetes $version and etcd, about a quarter of an hour, once"
work=$(mktemp -d "$dir/build.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"
export GOFLAGS=-mod=mod CGO_ENABLED=0
go mod init peer 2>/dev/null
# Its libraries are published by themselves; in its own go.mod they are folders
# of its source tree, which only holds for the main module.
go mod edit -require "k8s.io/kubernetes@v$version" -require "go.etcd.io/etcd/server/v3@$etcd"
source=$(go mod download -json "k8s.io/kubernetes@v$version" | sed -n 's/^\s*"Dir": "\(.*\)",$/\1/p')
for m in $(sed -n 's|^\s*\(k8s.io/[a-z-]*\) => ./staging/.*|\1|p' "$source/go.mod"); do
	go mod edit -replace "$m=$m@v0.${version#1.}"
done
# Imported by nothing here: named, so that they stay in go.mod.
{
	echo "package peer"
	for p in $programs; do echo "import _ \"k8s.io/kubernetes/cmd/$p\""; done
	echo 'import _ "go.etcd.io/etcd/server/v3"'
} >programs.go
go get ./... >get.log 2>&1 || go mod tidy >>get.log 2>&1 || { tail -20 get.log >&2; exit 1; }
v=k8s.io/component-base/version
flags="-s -w -X $v.gitVersion=v$version -X $v.gitMajor=1 -X $v.gitMinor=${version:2:2}"
for p in $programs; do
	go build -trimpath -ldflags "$flags" -o "$work/$p" "k8s.io/kubernetes/cmd/$p"
done
go build -trimpath -ldflags "-s -w" -o "$work/etcd" go.etcd.io/etcd/server/v3
for p in etcd $programs; do
	mv "$work/$p" "$dir/$p"
done
