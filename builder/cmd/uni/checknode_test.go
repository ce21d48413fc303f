package main

import (
	"strings"
	"testing"
)

// TestCheckNode: what a node of Kubernetes has too little of, or says in two ways.
func TestCheckNode(t *testing.T) {
	const kubelet, containerd = "/var/lib/kubelet/config.yaml", "/etc/containerd/config.toml"
	const k3s = "/var/lib/rancher/k3s/agent/etc/containerd/config.toml"
	runc := func(systemd string) string {
		return "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]\nSystemdCgroup = " + systemd + "\n"
	}
	for name, test := range map[string]struct {
		check       string
		files       map[string]string
		level, says string
	}{
		"good":                 {"host", nil, levelOK, "6.1.0"},
		"old":                  {"host", map[string]string{"/proc/sys/kernel/osrelease": "5.4.0-200-generic\n"}, levelWarn, "port-forward"},
		"too old":              {"host", map[string]string{"/proc/sys/kernel/osrelease": "4.19.0-27-amd64\n"}, levelFail, "shared"},
		"no number":            {"host", map[string]string{"/proc/sys/kernel/osrelease": "x\n"}, levelWarn, "cannot be told"},
		"instances":            {"inotify", nil, levelOK, "1024"},
		"few instances":        {"inotify", map[string]string{"/proc/sys/fs/inotify/max_user_instances": "128\n"}, levelWarn, "128"},
		"no kubelet":           {"driver", map[string]string{containerd: runc("true")}, levelOK, "no kubelet"},
		"both systemd":         {"driver", map[string]string{kubelet: "cgroupDriver: systemd\n", containerd: runc("true")}, levelOK, "systemd by the kubelet and by containerd"},
		"by default":           {"driver", map[string]string{kubelet: "kind: KubeletConfiguration\n", containerd: runc("true")}, levelOK, "systemd"},
		"not the same":         {"driver", map[string]string{kubelet: "cgroupDriver: cgroupfs\n", containerd: runc("true")}, levelWarn, "says cgroupfs, and " + containerd + " systemd"},
		"not the same by k3s":  {"driver", map[string]string{kubelet: "cgroupDriver: systemd\n", k3s: runc("false")}, levelWarn, k3s + " cgroupfs"},
		"nothing said of runc": {"driver", map[string]string{kubelet: "cgroupDriver: systemd\n", containerd: "version = 3\n"}, levelOK, "says nothing"},
		"strict memory":        {"memory", map[string]string{"/proc/sys/vm/overcommit_memory": "2\n"}, levelWarn, "overcommit"},
		"handler of k3s":       {"pods", map[string]string{k3s: "[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.uni]\nruntime_type = 'io.containerd.uni.v1'\npod_annotations = ['io.containerd.uni.*']\n"}, levelOK, "Kubernetes: uni"},
	} {
		t.Run(name, func(t *testing.T) {
			h, c := goodHost(t)
			for path, text := range test.files {
				write(t, h.root+path, text, 0o644)
			}
			for _, check := range checks {
				if check.name != test.check {
					continue
				}
				f := check.run(t.Context(), h, c)
				if f.Level != test.level || !strings.Contains(f.Detail, test.says) || (f.Level == levelOK) != (f.Action == "") {
					t.Errorf("%+v", f)
				}
			}
		})
	}
}
