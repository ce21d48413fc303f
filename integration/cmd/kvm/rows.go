package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"containerd-shim-uni/integration/kvm"
)

// peers are the containerd versions of L1: Debian's and the newest.
var peers = []string{"1.6.20", "2.4.2"}

// row is a package's tests that are run in L1.
type row struct {
	name string
	pkg  string
	run  string // pattern of go test -run
	env  []string
	// tools are what the tests need of what make peers builds, see kvm.Payload.
	tools []string
	// minutes bound the row, 20 when 0: a test that hangs is a failure with
	// its name, not a machine that is killed.
	minutes int
	// invariantTSC runs the row in another L1, whose processor claims one.
	invariantTSC bool
}

// rows are in the order in which they are run: what the later ones stand on first.
var rows = []row{
	{name: "probe", pkg: "./libvirt/kvm", run: "."},
	{name: "cgroup v2", pkg: "./shim/cgroup", run: "^TestUnified"},
	{name: "distro", pkg: "./integration/distro", run: "^TestInside$", env: []string{"UNI_DISTRO_TESTS=1"}},
	{name: "libvirt", pkg: "./libvirt", run: "^TestQEMU"},
	{name: "containerd 1.6", pkg: "./integration", run: names(streams, processes, lifecycle), env: on("1.6.20")},
	{name: "containerd 2.4", pkg: "./integration", run: names(streams, processes, lifecycle), env: on("2.4.2")},
	{name: "clock", pkg: "./integration", run: names([]string{"TestContainerClock"}), env: on("2.4.2")},
	{name: "machines", pkg: "./integration", run: names(machines), env: on("2.4.2")},
	{name: "networks", pkg: "./integration", run: names(networks), env: on("2.4.2")},
	{name: "kills", pkg: "./integration", run: names(kills), env: on("2.4.2")},
	{name: "walls", pkg: "./integration", run: names([]string{"TestWallsBetweenMachines"}), env: on("2.4.2")},
	{name: "pods", pkg: "./integration", run: names([]string{"TestCRIPod"}), env: on("2.4.2"), tools: []string{"cri-*", "tools-*"}},
	{name: "nanos", pkg: "./integration", run: names(nanos), env: on("2.4.2")},
	{name: "invariant TSC", pkg: "./integration", run: names([]string{"TestContainerClock"}), env: on("2.4.2"), invariantTSC: true},
}

// short are the rows of "make test": that the runtime works under KVM at all,
// and with cgroup version 2.
var short = []row{
	{name: "probe", pkg: "./libvirt/kvm", run: "."},
	{name: "cgroup v2", pkg: "./shim/cgroup", run: "^TestUnified"},
	{name: "distro", pkg: "./integration/distro", run: "^TestInside$", env: []string{"UNI_DISTRO_TESTS=1"}},
	{name: "machine", pkg: "./libvirt", run: "^(TestQEMUBootAndPowerOff)$"},
	{name: "containers", pkg: "./integration", run: names([]string{"TestStreamsAndExitStatus", "TestExec", "TestPauseAndResume"}), env: on("2.4.2")},
}

// Tests of package integration, by what they are about. New ones that depend on
// how the processor is virtualized are added here.
var (
	streams = []string{"TestStreamsAndExitStatus", "TestExitStatusRange", "TestStdinReachesEndOfFile", "TestMuchInputAndOutput",
		"TestStaticProgramAlone", "TestTerminalResizes"}
	processes = []string{"TestSignals", "TestExec", "TestExecInTerminal", "TestProcessSettings", "TestSameAsRunc"}
	lifecycle = []string{"TestPauseAndResume", "TestListPsMetrics", "TestBindMounts", "TestFiveAtOnce", "TestMachineSize",
		"TestContainerdRestarts"}
	machines = []string{"TestGuestThatPanics", "TestGuestThatHangsAtBoot", "TestMemoryTooSmallToBoot", "TestContainerThatPowersOff",
		"TestImageMultiboot", "TestImagePVH", "TestImageEnds", "TestImageLinux", "TestPushedDiskNative", "TestThroughTheDaemon"}
	networks = []string{"TestNetworkDualStack", "TestNetworkTwoInterfaces", "TestNetworkServes", "TestNetworkForgedSender", "TestNetworkShimKilled"}
	kills    = []string{"TestHypervisorKilled", "TestShimKilledWhileTheContainerRuns", "TestShimKilledWhileTheContainerIsDeleted"}
	nanos    = []string{"TestNanosExitStatus", "TestNanosProgram", "TestNanosMachine", "TestNanosPauseAndMetrics", "TestNanosNetwork"}
)

func on(version string) []string { return []string{"UNI_TEST_PEERS=" + version} }

// names is the pattern of exactly these tests.
func names(groups ...[]string) string {
	return "^(" + strings.Join(slices.Concat(groups...), "|") + ")$"
}

func (r row) bound() time.Duration {
	if r.minutes == 0 {
		return 20 * time.Minute
	}
	return time.Duration(r.minutes) * time.Minute
}

// script runs the row's tests in their folder.
func (r row) script(env []string) string {
	return kvm.Exports(slices.Concat(env, r.env)) + fmt.Sprintf("cd %s && exec %s -test.run '%s' -test.timeout %s -test.v=test2json\n",
		kvm.Folder(r.pkg), kvm.Test(r.pkg), r.run, r.bound())
}

// split groups rows by the L1 that they want, the usual one first.
func split(rows []row) [][]row {
	var plain, invariant []row
	for _, r := range rows {
		if r.invariantTSC {
			invariant = append(invariant, r)
		} else {
			plain = append(plain, r)
		}
	}
	return slices.DeleteFunc([][]row{plain, invariant}, func(rows []row) bool { return len(rows) == 0 })
}

// each is what the rows want, each once.
func each(rows []row, of func(row) []string) []string {
	var all []string
	for _, r := range rows {
		all = append(all, of(r)...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func packages(r row) []string { return []string{r.pkg} }
func tools(r row) []string    { return r.tools }
