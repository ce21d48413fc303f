#!/usr/bin/env bash
# Installs the Debian packages listed in deploy/packages that are missing, and
# makes the user QEMU runs as. Says nothing when all is there. Needs root only
# when something is missing.
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

# Debian's libvirt does not start its QEMU driver without this user and group,
# which only libvirt-daemon-system makes. That package brings daemons nobody
# here needs; the number is the one Debian reserves for both.
user=libvirt-qemu number=64055
if getent passwd $user >/dev/null && getent group $user >/dev/null; then
	user=
fi

[ ${#missing[@]} -gt 0 ] || [ -n "$user" ] || exit 0
if [ "$(id -u)" != 0 ]; then
	echo "deps.sh: root is needed for: ${missing[*]} ${user:+user $user}" >&2
	exit 1
fi
if [ ${#missing[@]} -gt 0 ]; then
	log=$(mktemp)
	trap 'rm -f "$log"' EXIT
	echo "installing ${#missing[@]} packages: ${missing[*]}"
	export DEBIAN_FRONTEND=noninteractive
	if ! { apt-get update -q && apt-get install -y -q --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
		tail -n 20 "$log" >&2
		echo "deps.sh: the packages did not install" >&2
		exit 1
	fi
fi
if [ -n "$user" ]; then
	echo "making the user $user, as libvirt-daemon-system does"
	getent group kvm >/dev/null || groupadd --system kvm
	getent group $user >/dev/null || groupadd --gid $number $user
	getent passwd $user >/dev/null || useradd -K UID_MAX=$number --uid $number --gid kvm --groups $user --comment 'Libvirt Qemu,,,' \
		--home-dir /var/lib/libvirt --no-create-home --shell /usr/sbin/nologin $user
fi
