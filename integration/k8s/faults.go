package k8s

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// sleeper is a pod that is restarted when it ends.
const sleeper = "  containers: [{name: c, image: BUSYBOX, command: [sleep, \"1000\"]}]\n"

// faults are checks of what remains when parts of the node end.
var faults = []check{
	{"killed-machine", func(t *try) error { return t.killed("qemu-system") }},
	{"killed-shim", func(t *try) error { return t.killed("containerd-shim") }},
	{"kubelet-restart", func(t *try) error { return t.survives(func() error { return t.Restart("kubelet") }) }},
	{"containerd-restart", func(t *try) error { return t.survives(func() error { return t.Node.Restart(t, syscall.SIGTERM) }) }},
	{"drain", func(t *try) error {
		return all(
			func() error { return t.pod("p", sleeper) },
			func() error { return t.ready("p") },
			func() error {
				_, err := t.Kubectl(t, "", "drain", "node", "--force", "--pod-selector=app=p", "--timeout=60s")
				_, back := t.Kubectl(t, "", "uncordon", "node")
				return joined(err, back)
			},
			func() error { return t.field("pod/p", "{.metadata.name}", "") },
		)
	}},
	// Whether the node would be as they say is TestNodeInstall's.
	{"manifests", func(t *try) error {
		for _, dir := range []string{"", "installer", "uninstall"} {
			if _, err := t.Kubectl(t, "", "apply", "--dry-run=server", "-k", filepath.Join(t.Deploy, "kubernetes", dir)); err != nil {
				return err
			}
		}
		return nil
	}},
	{"static-pod", func(t *try) error {
		path := filepath.Join(t.manifest, t.namespace+".yaml")
		manifest := t.filled("apiVersion: v1\nkind: Pod\nmetadata: {name: s, namespace: " + t.namespace + "}\nspec:\n  runtimeClassName: RUNTIME\n" + sleeper)
		return all(
			func() error { return os.WriteFile(path, []byte(manifest), 0o600) },
			func() error { return t.field("pod/s-node", "{.status.phase}", "Running") },
			func() error { return os.Remove(path) },
			func() error { return t.field("pod/s-node", "{.metadata.name}", "") },
		)
	}},
}

// killed kills the processes of a pod's machine, or shim, and waits until the pod
// runs again. A runtime without such processes has nothing to lose.
func (t *try) killed(program string) error {
	return all(
		func() error { return t.pod("p", sleeper) },
		func() error { return t.ready("p") },
		func() error {
			count := 0
			for _, pid := range t.Node.Processes() {
				line, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline") // it may have ended
				name, _, _ := strings.Cut(string(line), "\x00")
				if !strings.HasPrefix(filepath.Base(name), program) {
					continue
				}
				count++
				if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
					return err
				}
			}
			if count == 0 && t.runtime == "uni" {
				return fmt.Errorf("no process is a %s", program)
			}
			if count == 0 {
				return nil
			}
			return t.until("the container was restarted", func() (bool, string) {
				got, _ := t.kubectl("get", "pod/p", "-o", "jsonpath={.status.containerStatuses[0].restartCount}")
				return got != "" && got != "0", got
			})
		},
		func() error { return t.ready("p") },
		func() error { return t.exec("p", "c", "echo again", "again\n") },
	)
}

// survives checks that a pod goes on, and is reached, after something happened.
func (t *try) survives(happens func() error) error {
	return all(
		func() error { return t.pod("p", sleeper) },
		func() error { return t.ready("p") },
		func() error { return t.exec("p", "c", "echo here >/f", "") },
		happens,
		func() error {
			return t.until("the pod is reached again", func() (bool, string) {
				got, err := t.kubectl("exec", "p", "--", "cat", "/f")
				return err == nil && got == "here\n", fmt.Sprint(got, err)
			})
		},
		func() error { return t.field("pod/p", "{.status.containerStatuses[0].restartCount}", "0") },
	)
}
