#!/usr/bin/env bash
# Runs stages of the tests and closes with a line "N passed, N failed, N skipped":
#
#   house        formatting, vet, staticcheck, imports: the rules of the house
#   unit         every package's unit tests, with -race
#   qemu         the packages' own tests that boot machines or mount (root)
#   integration  the built programs against real containerd, libvirt, QEMU (root)
#   kvm          a few of them under KVM, in a machine that has it by emulation (root)
#   distro       the built programs on Debian 13, in a tree that is made once (root)
#
# All stages run, also after a failure. What "go test -json" said is in out/test.
set -uo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- house unit qemu integration distro kvm

results=out/test
mkdir -p "$results"
go build -buildvcs=false -o "$results/testsum" ./integration/cmd/testsum || exit 1

# stage NAME ARGS…: go test with ARGS.
stage() {
	echo "== $1"
	go test -json "${@:2}" 2>&1 | "$results/testsum" -o "$results/$1.json"
}

files=()
for s in "$@"; do
	case $s in
	# Never from the test cache, which does not know what these tests read.
	house) stage house -count=1 ./integration/house ;;
	# A test that reads the host's configuration fails on every host.
	unit) UNI_CONFIG=/dev/null/none stage unit -race $(go list ./... | grep -v -e '/integration$' -e '/integration/house$') ;;
	qemu)
		# Packages that have such tests; they run one after the other.
		folders=$(git grep -l UNI_QEMU_TESTS -- '*_test.go' | xargs -r dirname | sort -u | sed 's|^|./|')
		UNI_QEMU_TESTS=1 stage qemu -count=1 -p 1 $folders
		;;
	distro) UNI_DISTRO_TESTS=1 stage distro -count=1 -timeout 30m ./integration/distro ;;
	kvm) UNI_KVM_TESTS=1 stage kvm -count=1 -timeout 30m ./integration/cmd/kvm ;;
	integration) stage integration -count=1 -timeout 60m ./integration ;;
	*) echo "run.sh: no stage $s" >&2; exit 2 ;;
	esac
	files+=("$results/$s.json")
done
# Only a whole run can tell that a test is skipped everywhere.
list=()
[ $# -lt 3 ] || list=(-skips integration/skips.txt)
echo "== sum"
"$results/testsum" "${list[@]}" "${files[@]}"
