package main

import (
	"os"
	"strings"
	"testing"
)

// TestCheckPods: the files of deploy are right where they belong, and what users
// get wrong is found.
func TestCheckPods(t *testing.T) {
	deployed := func(name string) string {
		text, err := os.ReadFile("../../../deploy/containerd/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	const main, dropIn = "/etc/containerd/config.toml", "/etc/containerd/conf.d/uni.toml"
	for name, test := range map[string]struct {
		files map[string]string
		level string
		says  string
	}{
		"nothing":       {nil, levelOK, "no handler"},
		"version 2":     {map[string]string{main: "version = 2\n" + deployed("uni-v2.toml")}, levelOK, "Kubernetes: uni"},
		"version 3":     {map[string]string{main: "version = 3\nimports = []\n", dropIn: deployed("uni-v3.toml")}, levelOK, "Kubernetes: uni"},
		"imported":      {map[string]string{dropIn: deployed("uni-v2.toml")}, levelWarn, "replaces"},
		"no annotation": {map[string]string{dropIn: "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.vm]\nruntime_type = 'io.containerd.uni.v1'\n"}, levelWarn, "the handler vm"},
		"others":        {map[string]string{main: "[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.runc]\nruntime_type = 'io.containerd.runc.v2'\n"}, levelOK, "no handler"},
		"disabled":      {map[string]string{main: `disabled_plugins = ["cri"]`, dropIn: deployed("uni-v3.toml")}, levelWarn, "disables the plugin cri"},
		"no TOML":       {map[string]string{main: "version = \n"}, levelWarn, main},
	} {
		t.Run(name, func(t *testing.T) {
			h, c := goodHost(t)
			for path, text := range test.files {
				write(t, h.root+path, text, 0o644)
			}
			if f := checkPods(t.Context(), h, c); f.Level != test.level || !strings.Contains(f.Detail, test.says) {
				t.Errorf("%+v", f)
			}
		})
	}
}
