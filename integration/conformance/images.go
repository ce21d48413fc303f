package conformance

import (
	"context"
	"fmt"
	"os/exec"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"containerd-shim-uni/integration/image"
)

// Pause is the image of sandboxes; a registry answers for its name as for all.
const Pause = "registry.k8s.io/uni-pause:1"

// clientImages are what containerd's client tests pull: one busybox for all.
var clientImages = []string{"busybox:1.36", "alpine:3.14.0", "pause:3.10.2", "volume-copy-up:2.2", "volume-ownership:2.1", "nginx:1.27.0"}

// tools is the part of critest's names that its authors' test images begin with.
const tools = "k8s-staging-cri-tools/"

// Images are the images of all suites. Work is a directory for them, nginx one
// that holds, or is to hold, Debian's nginx.
func Images(ctx context.Context, work, nginx string) ([]Served, error) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return nil, err
	}
	box, err := image.Busybox("uni.local/busybox:latest", path)
	if err != nil {
		return nil, err
	}
	pause, err := image.Pause("uni.local/pause:latest", path)
	if err != nil {
		return nil, err
	}
	// Programs that this busybox has not, as far as the tests read what they say.
	box = image.With(box, map[string]string{
		"bin/ipcs":  "#!/bin/sh\ncat /proc/sysvipc/shm\n",
		"bin/pgrep": "#!/bin/sh\ngrep -l -x \"$1\" /proc/[0-9]*/comm 2>/dev/null\n",
	})
	httpd := image.With(box, map[string]string{"www/index.html": "It works!\n"})
	httpd.Config.Cmd = []string{"sh", "-c", "echo httpd; exec httpd -f -h /www"}
	euid, err := image.Build(work, "euid", "amd64")
	if err != nil {
		return nil, err
	}
	web, err := image.Nginx("uni.local/nginx:latest", nginx)
	if err != nil {
		return nil, err
	}
	web = image.With(image.Over(web, box), map[string]string{
		"var/run/README":       "",
		"etc/nginx/nginx.conf": nginxConf(80),
		"etc/nginx/host.conf":  nginxConf(12003),
	})
	web.Config.Cmd = []string{"nginx", "-g", "daemon off; user root root;"}
	hostNet := web
	hostNet.Config.Cmd = append(web.Config.Cmd[:3:3], "-c", "/etc/nginx/host.conf")
	groups := image.With(box, map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\ndefault-user:x:1000:1000::/tmp:/bin/sh\n",
		"etc/group":  "root:x:0:\ndefault-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n",
	})
	groups.Config.User = "1000"

	var all []Served
	for _, i := range []struct {
		image image.Image
		names []string
	}{
		{box, append([]string{"e2e-test-images/busybox:1.29-2", "alpine:3.13-org"}, clientImages...)},
		{pause, []string{"uni-pause:1"}},
		{httpd, []string{"e2e-test-images/httpd:2.4.39-4"}},
		{image.SetUID("uni.local/euid:latest", euid), []string{"e2e-test-images/nonewprivs:1.3"}},
		{web, []string{"e2e-test-images/nginx:1.14-2", "nginx:1.19-alpine-org"}},
		{hostNet, []string{tools + "hostnet-nginx-amd64:latest"}},
		{groups, []string{tools + "test-image-predefined-group:latest"}},
	} {
		loaded, err := load(ctx, work, i.image)
		if err != nil {
			return nil, fmt.Errorf("make the image %s: %w", i.names[0], err)
		}
		all = append(all, Served{loaded, i.names})
	}
	more, err := variants(all[0].Image)
	return append(all, more...), err
}

// nginxConf is a server with a worker, whose first process says where it is.
func nginxConf(port int) string {
	return fmt.Sprintf("pid /var/run/nginx.pid;\nerror_log stderr;\nevents {}\nhttp { access_log off; server { listen %d; root /usr/share/nginx/html; } }\n", port)
}

// variants are the images that critest tells apart, by their users or by nothing
// but their digests.
func variants(box v1.Image) ([]Served, error) {
	var all []Served
	for name, user := range map[string]string{
		"test-image-user-uid": "1002", "test-image-user-username": "www-data",
		"test-image-user-uid-group": "1003:1004", "test-image-user-username-group": "www-data:1004",
		"test-image-latest": "", "test-image-tag:test": "", "test-image-tag:all": "",
		"pause": "", "test-image-1": "", "test-image-2": "", "test-image-3": "", "test-image-tags": "",
	} {
		i, err := mutate.Config(box, v1.Config{Env: []string{"IMAGE=" + name}, User: user, Cmd: []string{"sh"}})
		if err != nil {
			return nil, err
		}
		names := []string{tools + name}
		switch name {
		case "test-image-tags":
			names = []string{tools + name + ":1", tools + name + ":2", tools + name + ":3"}
		case "pause":
			names = []string{"pause:3.9"}
		}
		all = append(all, Served{i, names})
	}
	return all, nil
}
