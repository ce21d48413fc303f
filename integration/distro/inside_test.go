package distro

import (
	_ "embed"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

var (
	//go:embed tree.sh
	treeScript string
	//go:embed inside.sh
	insideScript string
)

// enterRoot enters where "make distro" runs tests, below this machine's own root
// instead of a release's. The layer is on a file system of its own: it cannot
// lie in the tree that it is over.
const enterRoot = `set -euo pipefail
source integration/distro/tree.sh
mount -t tmpfs run run
tree=/ run=$PWD/run name=uni-distro.$$ store=$PWD/run/store cache=$PWD/run/cache
mkdir -p run/{upper,work,root} run/disk/{tmp,var/tmp,var/lib/uni,var/lib/containerd} run/store/{kernel,gocache} run/cache/images run/go
export GOROOT=$PWD/run/go GOMODCACHE=$PWD/run/go
status=0
enter bash -euc "$1" || status=$?
leave || exit 99
exit $status
`

// Version 1 or 2, whichever the machine has: its own group is all there is, it
// may be divided, and its limits may be set.
const ownCgroup = `cd /sys/fs/cgroup
if [ -e cgroup.controllers ]; then
	for c in cpu memory pids; do
		grep -w $c cgroup.subtree_control
	done
	grep -x 0::/init /proc/self/cgroup
	mkdir ours
	echo 50M >ours/memory.max
	grep -x $((50 << 20)) ours/memory.max
else
	grep :memory:/\$ /proc/self/cgroup
	cd memory
	mkdir ours
	echo 50M >ours/memory.limit_in_bytes
	grep -x $((50 << 20)) ours/memory.limit_in_bytes
fi
rmdir ours
`

func TestInside(t *testing.T) {
	if os.Getenv("UNI_DISTRO_TESTS") != "1" {
		t.Skip("makes namespaces and cgroups, as root; set UNI_DISTRO_TESTS=1")
	}
	for _, tt := range []struct {
		name, command string
		fails         bool
		says          string
	}{
		{"a cgroup of its own", ownCgroup, false, ""},
		{"processes of its own", "[ $$ != 1 ] && [ $PPID = 1 ] && sleep 1000 &", false, ""},
		{"devices of its own", "chmod 600 /dev/null && mkdir /tmp/x", false, ""},
		{"its status", "exit 7", true, ""},
		{"a cgroup that is left", "cd /sys/fs/cgroup; [ -e cgroup.controllers ] || cd memory; mkdir -p left/behind", true, "left behind: cgroup left/behind in"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, err := inside(t, tt.command)
			if (err != nil) != tt.fails || !strings.Contains(out, tt.says) {
				t.Errorf("%v: %s", err, out)
			}
			if left, _ := filepath.Glob("/sys/fs/cgroup/*uni-distro.*"); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
	var st unix.Stat_t
	if err := unix.Stat("/dev/null", &st); err != nil || st.Mode&0o777 != 0o666 {
		t.Errorf("the host's /dev/null: mode %o, %v", st.Mode, err)
	}
}

// inside runs a command of bash there and returns what was printed.
func inside(t *testing.T, command string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "integration/distro"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "run"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"tree.sh": treeScript, "inside.sh": insideScript} {
		if err := os.WriteFile(filepath.Join(dir, "integration/distro", name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "bash", "-c", enterRoot, "enter", command)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	return string(out), err
}
