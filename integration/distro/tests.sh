#!/usr/bin/env bash
# What integration/distro.sh runs in the tree of a release: tests.sh full|short|shell
# KERNEL=host: the guest's kernel is the one of the host.
set -euo pipefail
cd /usr/src/containerd-shim-uni
. /etc/os-release
form=$1
logs=/tmp/logs
mkdir -p $logs
export PATH=$PATH:/usr/local/go/bin GOPROXY=off GOTOOLCHAIN=local GOFLAGS=-mod=readonly UNI_QEMU_TESTS=1

say() { printf '== %s: %s (%d s)\n' "$VERSION_CODENAME" "$*" "$SECONDS"; }
fail() { echo "distro: $*" >&2; exit 1; }

# logged NAME COMMAND…: runs it with its output in a log, whose end is shown when
# it fails.
logged() {
	local name=$1
	shift
	"$@" >"$logs/$name" 2>&1 || { tail -n 40 "$logs/$name" >&2; fail "$* failed"; }
}

# tests NAME TEST…: runs tests of out/tests/NAME.test in their folder. Each has
# to be there, to run and to pass.
tests() {
	local name=$1 list t
	shift
	list=$(IFS='|' && echo "$*")
	(cd "$name" && logged "$name.$form" "../out/tests/$name.test" -test.v -test.count=1 -test.timeout=40m -test.run "^($list)\$")
	for t in "$@"; do
		grep -q "^--- PASS: $t " "$logs/$name.$form" || fail "$name: $t did not run and pass"
	done
	! grep '^ *--- SKIP' "$logs/$name.$form" || fail "$name: skipped"
	echo "$name: $(grep -c '^--- PASS' "$logs/$name.$form") tests passed"
}

# check asks the installed uni about this host.
check() {
	uni check >"$logs/check" || { cat "$logs/check" >&2; fail "uni check finds that containers will not start"; }
	grep -E '^[A-Z]+ +(qemu|firmware|libvirt|containerd|virtiofsd) ' "$logs/check"
}

# Without libvirt's library the error says what to install.
without_libvirt() {
	local out
	out=$(unshare --mount sh -c 'for f in /usr/lib/*/libvirt.so.0; do mount --bind /dev/null "$f"; done
		containerd-shim-uni-v1 warm' 2>&1) && fail "libvirt is missing and warm does not fail"
	case $out in
	*"libvirt.so.0 cannot be loaded: install"*libvirt0*) ;;
	*) fail "libvirt is missing and the error is: $out" ;;
	esac
}

# peers makes the release's own containerd one that the tests know.
peers() {
	local p dir
	version=$(containerd --version | grep -o '[ v][0-9]*\.[0-9]*\.[0-9]*' | head -n 1 | tr -d ' v')
	dir=$HOME/.cache/containerd-shim-uni/peers/$version
	mkdir -p "$dir"
	for p in containerd ctr containerd-shim-runc-v2; do
		ln -sf "$(command -v $p)" "$dir/$p"
	done
	export UNI_TEST_PEERS=$version
}

# The most telling: what a release's QEMU, libvirt and virtiofsd can break.
machines=(TestQEMUBootAndPowerOff TestQEMUPanic TestQEMUShare)
matrix=(TestStreamsAndExitStatus TestStdinReachesEndOfFile TestExec TestTerminalResizes TestPauseAndResume TestBindMounts
	TestMachineSize TestMemoryTooSmallToBoot TestImagePVH TestImageEnds)
more=(TestSameAsRunc TestExitStatusRange TestMuchInputAndOutput TestPythonFromDebianPackages TestFiveAtOnce TestProcessSettings
	TestProgramThatCannotStart TestRootIsNotShared TestSignals TestTerminalInterrupts TestExecsAtOnce TestExecInTerminal TestListPsMetrics
	TestContainerdRestarts TestEventsInOrder TestImageMultiboot TestImageSignals TestImageLinux TestThroughTheDaemon TestDaemonThatDies
	TestGuestThatPanics TestContainerThatPowersOff TestHypervisorKilled TestShimKilledWhileTheContainerRuns TestNetworkServes TestNetworkDualStack
	TestWritableLayerFull)

# theirs installs the programs that were built on the host.
theirs() {
	rm -rf out/bin out/guest
	cp -a out/host/bin out/host/guest out/
	deploy/install.sh
}

# newcomer builds and installs, and runs the demo.
newcomer() {
	if [ "${KERNEL:-}" = host ]; then
		logged install make build
		cp -a out/host/guest out/
		logged install deploy/install.sh
		logged demo deploy/demo.sh
	else
		logged install make install
		logged demo make demo
	fi
}

say "$PRETTY_NAME, $(dpkg-query -W -f '${Package} ${Version}, ' qemu-system-x86 libvirt0 containerd)Linux $(uname -r)"
peers
case $form in
short)
	theirs
	check
	without_libvirt
	say "machines"
	tests libvirt "${machines[@]}"
	say "containers, with containerd $version"
	tests integration "${matrix[@]}"
	;;
full)
	say "make install and make demo, as a newcomer would${KERNEL:+, but with the kernel of the $KERNEL}"
	newcomer
	check
	without_libvirt
	say "machines"
	mapfile -t machines < <(cd libvirt && ../out/tests/libvirt.test -test.list '^TestQEMU')
	tests libvirt "${machines[@]}"
	say "containers, with containerd $version"
	tests integration "${matrix[@]}" "${more[@]}"
	say "the same with the programs that were built on the host"
	form=host
	theirs
	tests integration "${matrix[@]}"
	;;
shell)
	theirs
	bash -i
	;;
esac
