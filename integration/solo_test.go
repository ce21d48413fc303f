package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"containerd-shim-uni/integration/image"
	"containerd-shim-uni/integration/peer"
)

// annotated runs a pod with annotations, which are its containers' too.
func (n *node) annotated(t *testing.T, annotations map[string]string) *sandbox {
	t.Helper()
	p := &sandbox{node: n}
	p.config, p.dir = n.podConfig(t, nil)
	text, err := os.ReadFile(p.config)
	if err != nil {
		t.Fatal(err)
	}
	var config object
	if err := json.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	config["annotations"] = annotations
	p.config = n.write(t, fmt.Sprintf("pod%d", n.made), config)
	p.id = n.do(t, "runp", "--runtime", handler(), p.config)
	t.Cleanup(func() { n.cri(t, "", "rmp", "-f", p.id) }) // the test may have done it
	return p
}

// address is the pod's.
func (p *sandbox) address(t *testing.T) string {
	t.Helper()
	var pod struct {
		Status struct{ Network struct{ IP string } }
	}
	if err := json.Unmarshal([]byte(p.do(t, "inspectp", "-o", "json", p.id)), &pod); err != nil || pod.Status.Network.IP == "" {
		t.Fatalf("%+v, %v", pod, err)
	}
	return pod.Status.Network.IP
}

// TestCRINanosPod: the containers of a pod of the guest "nanos" have machines of their
// own at the pod's address, one after the other; a second one is refused, with the
// reason.
func TestCRINanosPod(t *testing.T) {
	nanosOnly(t)
	test := func(t *testing.T, n *node) {
		n.with(t, settings{"nanos.kernel": fmt.Sprintf("%q", os.Getenv("UNI_NANOS_DIR")), "annotations.allowed": `["guest"]`})
		n.importOnce(t, debianImage(t, "nginx", image.Nginx))
		p := n.annotated(t, map[string]string{"io.containerd.uni.guest": "nanos"})
		if qemus := n.find(t, "qemu-system"); len(qemus) > 0 {
			t.Errorf("the pod has a machine before it has a container: %v", qemus)
		}
		first := p.run(t, nil, "read name </etc/hostname; echo init of $name; exit 3")
		if s := n.exited(t, first); s.ExitCode != 3 || n.do(t, "logs", first) != fmt.Sprintf("init of pod%d-host", n.made) {
			t.Errorf("the first: %+v, %q", s, n.do(t, "logs", first))
		}
		serve := object{"image": object{"image": imageName("nginx")}, "command": []string{"nginx", "-g", "pid /nginx.pid; user root root; daemon off; master_process off; error_log stderr;"}}
		server := p.run(t, serve, "")
		get := []string{"--net=" + string(n.netns), "busybox", "wget", "-q", "-O", "-", "http://" + p.address(t) + "/"}
		answers := func() bool {
			page, _ := exec.CommandContext(t.Context(), "nsenter", get...).Output()
			return strings.Contains(string(page), "Welcome to nginx!")
		}
		eventually(t, "the server answers at the pod's address", answers)

		beside := p.create(t, nil, "exit 0")
		if r := n.cri(t, "", "start", beside); r.Code == 0 || !strings.Contains(r.Stderr, "has container "+server+" already") {
			t.Errorf("a second one: %+v", r)
		}
		if s := n.status(t, server); s.State != "CONTAINER_RUNNING" {
			t.Errorf("then the first is %+v", s)
		}
		p.podStats(t, 1)
		n.do(t, "stop", "-t", "0", server)
		n.do(t, "rm", server, beside)
		serve["metadata"] = object{"name": "again", "attempt": 1}
		again := p.run(t, serve, "")
		eventually(t, "the server that came after it answers", answers)
		n.do(t, "stopp", p.id)
		if s := n.status(t, again); s.State != "CONTAINER_EXITED" || s.ExitCode != 137 {
			t.Errorf("with the pod stopped: %+v", s)
		}
		n.do(t, "rmp", p.id)
	}
	onNodes(t, test)
	t.Run("sandbox-api", func(t *testing.T) { test(t, newAPINode(t)) })
}

// TestCRIImagePod: what the image of a pod's container carries boots.
func TestCRIImagePod(t *testing.T) {
	uniOnly(t)
	n := newNode(t, newest())
	if !exists(archive(kernels)) {
		makeKernels(t)
	}
	n.load(t, kernels)
	n.with(t, settings{"annotations.allowed": `["guest", "kernel"]`})
	p := n.annotated(t, map[string]string{"io.containerd.uni.guest": "image", "io.containerd.uni.kernel": "/boot/pvh"})
	for _, code := range []int{4, 5} {
		carried := object{"image": object{"image": kernels}, "command": []string{fmt.Sprintf("exit=%d", code)}}
		id := p.run(t, carried, "")
		if s := n.exited(t, id); s.ExitCode != code || !strings.HasPrefix(n.do(t, "logs", id), "PVH: ") {
			t.Errorf("%+v, %q", s, n.do(t, "logs", id))
		}
	}
	n.do(t, "rmp", "-f", p.id)
}

// TestCRISoloShimDies: what such a pod has on the host goes with its shim.
func TestCRISoloShimDies(t *testing.T) {
	nanosOnly(t)
	for name, change := range map[string]func(*peer.Options){"podsandbox": func(*peer.Options) {}, "sandbox-api": func(o *peer.Options) { o.CRI.SandboxAPI = true }} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, "2.4.2", change)
			n.with(t, settings{"nanos.kernel": fmt.Sprintf("%q", os.Getenv("UNI_NANOS_DIR")), "annotations.allowed": `["guest"]`})
			p := n.annotated(t, map[string]string{"io.containerd.uni.guest": "nanos"})
			id := p.run(t, nil, "while :; do read x </etc/passwd; done")
			n.killShims(t)
			n.exited(t, id)
			eventually(t, "the machine has ended", func() bool { return len(n.find(t, "qemu-system")) == 0 })
			n.do(t, "rmp", "-f", p.id)
		})
	}
}

// killShims ends the node's shims as nothing can be caught.
func (n *node) killShims(t *testing.T) {
	t.Helper()
	for _, pid := range n.shims(t) {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
}
