package k8s

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// Images by the words that stand for them in manifests. Only those of a tag other
// than "latest" are not pulled when the node has them.
const (
	Busybox = "uni.local/busybox:1"
	Program = "uni.local/pod:1"
)

// waitTimeout bounds each wait of a check: a machine boots in seconds without KVM.
const waitTimeout = 90 * time.Second

// try is one check on one runtime.
type try struct {
	context.Context
	*Cluster
	// runtime is the RuntimeClass, namespace the check's own.
	runtime, namespace string
}

// kubectl is a call of it in the check's namespace.
func (t *try) kubectl(args ...string) (string, error) { return t.kubectlIn("", args...) }

func (t *try) kubectlIn(stdin string, args ...string) (string, error) {
	return t.Kubectl(t, stdin, append([]string{"-n", t.namespace}, args...)...)
}

// apply creates objects. In a manifest RUNTIME is the runtime's class, and BUSYBOX
// and PROGRAM are images.
func (t *try) apply(manifest string) error {
	_, err := t.kubectlIn(t.filled(manifest), "apply", "-f", "-")
	return err
}

func (t *try) filled(text string) string {
	return strings.NewReplacer("RUNTIME", t.runtime, "BUSYBOX", Busybox, "PROGRAM", Program, "DIR", t.Peer.Dir+"/"+t.namespace).Replace(text)
}

// pod creates a pod of a name; spec are the lines of its specification, indented by
// two spaces. What is killed is killed soon.
func (t *try) pod(name, spec string) error {
	return t.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: " + name + ", labels: {app: " + name + "}}\nspec:\n" +
		"  runtimeClassName: RUNTIME\n  terminationGracePeriodSeconds: 5\n" + strings.TrimPrefix(spec, "\n"))
}

// ready waits until pods are ready.
func (t *try) ready(names ...string) error {
	for _, n := range names {
		if _, err := t.kubectl("wait", "--for=condition=Ready", "pod/"+n, "--timeout="+waitTimeout.String()); err != nil {
			about, _ := t.kubectl("get", "events", "-o", "custom-columns=M:.message", "--no-headers") // for the message alone
			return fmt.Errorf("%w; events:\n%s", err, about)
		}
	}
	return nil
}

// ended waits until a pod has the phase and returns the log of a container.
func (t *try) ended(name, container, phase string) (string, error) {
	if err := t.field("pod/"+name, "{.status.phase}", phase); err != nil {
		return "", err
	}
	return t.kubectl("logs", name, "-c", container)
}

// field waits until a field of an object, a JSON path, has a value.
func (t *try) field(object, path, want string) error {
	got := ""
	return t.until(fmt.Sprintf("%s %s is %q", object, path, want), func() (bool, string) {
		got, _ = t.kubectl("get", object, "-o", "jsonpath="+path) // it may not be there yet
		return got == want, got
	})
}

// says waits until a container's log has a text.
func (t *try) says(pod, container, want string) error {
	return t.until(fmt.Sprintf("the log of %s has %q", pod, want), func() (bool, string) {
		got, err := t.kubectl("logs", pod, "-c", container)
		return err == nil && strings.Contains(got, want), got
	})
}

// exec runs a shell's script in a container and compares what it prints.
func (t *try) exec(pod, container, script, want string) error {
	got, err := t.kubectl("exec", pod, "-c", container, "--", "sh", "-c", script)
	if err == nil && got != want {
		err = fmt.Errorf("%s in %s prints %q, want %q", script, pod, got, want)
	}
	return err
}

// until waits until a condition holds, which says what it saw.
func (t *try) until(what string, holds func() (bool, string)) error {
	for deadline := time.Now().Add(waitTimeout); ; {
		ok, saw := holds()
		if ok {
			return nil
		}
		if time.Now().After(deadline) || t.Err() != nil {
			return fmt.Errorf("not within %v: %s; it is %q", waitTimeout, what, saw)
		}
		time.Sleep(300 * time.Millisecond)
	}
}

// all runs steps until one fails.
func all(steps ...func() error) error {
	for _, s := range steps {
		if err := s(); err != nil {
			return err
		}
	}
	return nil
}
