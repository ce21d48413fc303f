#!/usr/bin/env bash
# Installs the Debian packages listed in deploy/packages that are missing, then
# makes the user QEMU runs as, unless a package did. Says nothing when all is
# there. Needs root only when something is missing.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

if ! command -v dpkg-query >/dev/null; then
	echo "deps.sh: this is not Debian: install what $here/packages lists by other means, see docs/hosts.md" >&2
	exit 0
fi

mapfile -t wanted < <(sed -e 's/[[:space:]]*#.*//' -e '/^$/d' "$here/packages")
installed=" $(dpkg-query -W -f '${Package}:${db:Status-Status} ' "${wanted[@]%\?}" 2>/dev/null || true)"
missing=() optional=()
for package in "${wanted[@]}"; do
	case $installed$package in
	*" ${package%\?}:installed "*) ;;
	*\?) optional+=("${package%\?}") ;;
	*) missing+=("$package") ;;
	esac
done

# available NAME: the archive has such a package, as far as apt knows.
available() { [[ $(apt-cache policy "$1" 2>/dev/null) == *"Candidate: "[!\(]* ]]; }

for package in "${optional[@]}"; do
	! available "$package" || missing+=("$package")
done

if [ ${#missing[@]} -gt 0 ]; then
	if [ "$(id -u)" != 0 ]; then
		echo "deps.sh: root is needed to install: ${missing[*]}" >&2
		exit 1
	fi
	log=$(mktemp)
	trap 'rm -f "$log"' EXIT
	export DEBIAN_FRONTEND=noninteractive
	if ! apt-get update -q >"$log" 2>&1; then
		tail -n 20 "$log" >&2
		echo "deps.sh: apt-get update failed" >&2
		exit 1
	fi
	for package in "${optional[@]}"; do # now apt knows the archive
		case " ${missing[*]} " in *" $package "*) continue ;; esac
		! available "$package" || missing+=("$package")
	done
	echo "installing ${#missing[@]} packages: ${missing[*]}"
	if ! apt-get install -y -q --no-install-recommends "${missing[@]}" >"$log" 2>&1; then
		tail -n 20 "$log" >&2
		echo "deps.sh: the packages did not install" >&2
		exit 1
	fi
fi

# Debian 13's QEMU driver makes the user that it needs, Debian 12's does not.
"$here/qemu-user.sh"
