#!/usr/bin/env bash
# Prints the directory of a go command that can build this module: the one in
# PATH, else /usr/local/go. Fails with advice when there is none; the golang
# packages of Debian 12 and 13 are too old.
set -euo pipefail
cd "$(dirname "$0")/.."

for go in "$(command -v go || true)" /usr/local/go/bin/go; do
	if [ -x "$go" ] && "$go" list -m >/dev/null 2>&1; then
		dirname "$go"
		exit
	fi
done
want=$(sed -n 's/^go //p' go.mod)
found=$(go version 2>/dev/null | cut -d' ' -f3 || true)
cat >&2 <<ADVICE
Go $want or newer is needed to build; found: ${found:-none}.
Unpack https://go.dev/dl/go$want.linux-amd64.tar.gz under /usr/local
(tar -C /usr/local -xzf go$want.linux-amd64.tar.gz) and run make again.
ADVICE
# A package, where it is new enough: that of Debian 13's backports is.
minor=${want%.*}
package=golang-$minor-go
candidate=$(apt-cache madison "$package" 2>/dev/null | awk -F'|' 'NR == 1 { gsub(/ /, "", $2); print $2 }' || true)
if [ -n "$candidate" ] && dpkg --compare-versions "$candidate" ge "$want"; then
	echo "Or: apt-get install $package ($candidate), then PATH=/usr/lib/go-$minor/bin:\$PATH make …" >&2
elif grep -qs '^VERSION_CODENAME=trixie' /etc/os-release; then
	echo "Or the package $package of trixie-backports, once apt's sources name them." >&2
fi
exit 1
