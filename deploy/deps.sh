#!/usr/bin/env bash
# Installs the Debian packages listed in deploy/packages that are missing.
# Says nothing when all are there. Needs root only when something is missing.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

if ! command -v dpkg-query >/dev/null; then
	echo "deps.sh: this is not Debian; install what $here/packages lists by other means and go on with make build" >&2
	exit 1
fi

missing=()
while read -r package _; do
	case $package in '' | \#*) continue ;; esac
	status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
	[ "$status" = installed ] || missing+=("$package")
done <"$here/packages"
if [ ${#missing[@]} = 0 ]; then
	exec "$here/qemu-user.sh"
fi

if [ "$(id -u)" != 0 ]; then
	echo "deps.sh: root is needed to install: ${missing[*]}" >&2
	exit 1
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
echo "installing ${#missing[@]} packages: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get update -q && apt-get install -y -q --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
	tail -n 20 "$log" >&2
	echo "deps.sh: the packages did not install" >&2
	exit 1
fi
rm -f "$log"
exec "$here/qemu-user.sh"
