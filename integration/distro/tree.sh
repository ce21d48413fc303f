# Functions of integration/distro.sh: the tree of a release, and a run in it.
# shellcheck shell=bash disable=SC2154

# sources prints apt's lines for the release: this machine's own for its Debian,
# with the other codename.
sources() {
	local mine
	mine=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
	# shellcheck disable=SC2016
	apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
		awk -v mine="$mine" -v want="$release" '
			$2 == mine || index($2, mine "-") == 1 { $2 = want substr($2, length(mine) + 1); print "deb", $1, $2, $3 }' | sort -u
}

# obtain makes the tree, or installs what it lacks.
obtain() {
	local digest mirror proxy=
	digest=$(cat deploy/packages deploy/deps.sh deploy/qemu-user.sh | sha256sum)
	[ "$(cat "$store/packages" 2>/dev/null)" != "$digest" ] || return 0
	eval "$(apt-config shell proxy Acquire::http::Proxy)"
	[ -z "$proxy" ] || export http_proxy=$proxy
	if [ ! -d "$tree" ]; then
		mirror=$(sources | awk -v r="$release" '$3 == r { print $2; exit }')
		[ -n "$mirror" ] || {
			echo "distro.sh: apt's sources of this machine name no release by its codename: no mirror to take $release from" >&2
			return 1
		}
		say "debootstrap, once"
		rm -rf "$store/new"
		debootstrap --variant=minbase --include=ca-certificates "$release" "$store/new" "$mirror" >"$store/debootstrap.log" 2>&1 || {
			tail -n 20 "$store/debootstrap.log" >&2
			echo "distro.sh: debootstrap failed; its log is $store/debootstrap.log" >&2
			return 1
		}
		sources >"$store/new/etc/apt/sources.list"
		printf '%s\n' force-unsafe-io 'path-exclude=/usr/share/doc/*' 'path-exclude=/usr/share/man/*' 'path-exclude=/usr/share/locale/*' \
			>"$store/new/etc/dpkg/dpkg.cfg.d/uni"
		printf '#!/bin/sh\nexit 101\n' >"$store/new/usr/sbin/policy-rc.d" # no package starts a daemon
		chmod 755 "$store/new/usr/sbin/policy-rc.d"
		mv "$store/new" "$tree"
	fi
	say "packages, as make deps installs them"
	rm -rf "$tree/usr/src/uni-deploy"
	cp -a deploy "$tree/usr/src/uni-deploy"
	cp -L /etc/resolv.conf /etc/hosts "$tree/etc/"
	unshare --mount --pid --fork --kill-child --propagation private integration/distro/inside.sh "$tree" - \
		bash /usr/src/uni-deploy/deps.sh
	rm -rf "$tree/usr/src/uni-deploy" "$tree"/var/cache/apt/archives/*.deb
	echo "$digest" >"$store/packages"
}

# prepare fills the run's layer: the checkout, and folders that are not to be on
# the layer itself, since containerd has layers of its own.
prepare() {
	local src=$run/upper/usr/src/containerd-shim-uni
	mkdir -p "$run"/{work,root} "$run"/disk/{tmp,var/tmp,var/lib/uni,var/lib/containerd} "$src" "$store"/{kernel,gocache}
	chmod 755 "$run" "$run/upper"
	chmod 1777 "$run/disk/tmp" "$run/disk/var/tmp"
	git ls-files -z --cached --others --exclude-standard | tar -c --null --ignore-failed-read -T - 2>/dev/null | tar -x -C "$src"
	mkdir -p "$src/out/host" "$src/out/tests"
	cp -a out/bin out/guest "$src/out/host/"
	# What is only an image's content is this machine's: the same files in all trees.
	[ -d "$cache/images/python" ] || {
		mkdir -p "$cache/images"
		go run -buildvcs=false ./integration/cmd/mkimage -kind python -name uni.local/python -tree "$cache/images/python" "$run/python.tar"
		rm -f "$run/python.tar"
	}
}

# binaries builds the tests here; they run there.
binaries() {
	local out=$run/upper/usr/src/containerd-shim-uni/out/tests
	CGO_ENABLED=0 go test -c -o "$out/integration.test" ./integration
	go test -c -tags libvirt_dlopen -o "$out/libvirt.test" ./libvirt
}

# hierarchies prints where the kernel's cgroup hierarchies are mounted.
hierarchies() { findmnt -rno TARGET -t cgroup,cgroup2; }

# enter COMMAND…: runs it in namespaces and a cgroup of its own.
enter() {
	local dir file
	for dir in $(hierarchies); do
		mkdir "$dir/$name"
		for file in cpuset.cpus cpuset.mems; do # version 1: nothing enters without
			[ ! -e "$dir/tasks" ] || [ ! -e "$dir/$file" ] || cat "$dir/$file" >"$dir/$name/$file"
		done
	done
	(
		for dir in $(hierarchies); do
			file=$dir/$name/cgroup.procs
			if [ -e "$dir/cgroup.controllers" ]; then # version 2: see inside.sh
				mkdir "$dir/$name/outside"
				file=$dir/$name/outside/cgroup.procs
			fi
			echo $BASHPID >"$file"
		done
		export RUN=$run NAME=$name STORE=$store CACHE=$cache
		# Whoever kills distro.sh ends what it started: unshare, and by that process 1.
		exec setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child --net --ipc --uts --propagation private \
			integration/distro/inside.sh "$tree" "$run" "$@"
	)
}

# leave removes the run's cgroups; what a container left in them is an error. Its
# own is two down, in one of its namespace, which stays as with runc.
leave() {
	local dir left bad=0
	for dir in $(hierarchies); do
		[ -d "$dir/$name" ] || continue
		while read -r left; do
			case $left in
			"$dir/$name"/machine*) ;; # libvirtd's own, which tests kill
			"$dir/$name"/*/*) echo "left behind: cgroup ${left#"$dir/$name/"} in $dir" >&2 && bad=1 ;;
			esac
			rmdir "$left" || bad=1
		done < <(find "$dir/$name" -depth -type d)
	done
	return $bad
}
