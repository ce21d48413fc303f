package conformance

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"containerd-shim-uni/integration/peer"
)

// critest are the tests of the container runtime interface: what the kubelet asks
// of containerd, https://github.com/kubernetes-sigs/cri-tools.
type critest struct{}

// podNetwork is the network of the pods: a bridge in the namespace of the run.
const podNetwork = `{"cniVersion": "1.0.0", "name": "pods", "plugins": [
	{"type": "bridge", "bridge": "pods0", "isGateway": true, "ipMasq": true,
		"ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "10.99.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
	{"type": "portmap", "capabilities": {"portMappings": true}}]}`

// PodNetwork is that network for a directory in which it notes addresses.
func PodNetwork(dir string) string { return fmt.Sprintf(podNetwork, filepath.Join(dir, "ipam")) }

// Prepare asks for the program, which "make peers" builds.
func (critest) Prepare(_ context.Context, cache string) error {
	_, err := Tool(cache, "cri-*", "critest")
	return err
}

// Tool is a program in the only directory of the peers that a pattern names.
func Tool(cache, pattern, program string) (string, error) {
	found, err := filepath.Glob(filepath.Join(cache, "peers", pattern, program))
	if err == nil && len(found) != 1 {
		err = fmt.Errorf("%s is missing: make peers", program)
	}
	if err != nil {
		return "", err
	}
	return found[0], nil
}

// Run runs the tests on a containerd of their own.
func (critest) Run(ctx context.Context, p Place) (all Results, err error) {
	program, err := Tool(p.Cache, "cri-*", "critest")
	if err != nil {
		return nil, err
	}
	plugin, err := Tool(p.Cache, "tools-*", "bridge")
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(p.Dir, p.Runtime)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	host, err := peer.Start(ctx, peer.Options{
		Version: "2.4.2", Programs: filepath.Join(p.Cache, "peers"), Dir: dir, Namespace: "k8s.io", Env: p.Env, Marks: []string{p.State},
		CRI: &peer.CRI{Plugins: filepath.Dir(plugin), Network: PodNetwork(dir), Pause: Pause, Registry: "http://" + Address, Deploy: p.Deploy, SandboxAPI: p.SandboxAPI},
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, host.Stop()) }()
	report := p.Log + ".xml"
	args := []string{
		"-runtime-endpoint=unix://" + host.Address(), "-image-endpoint=unix://" + host.Address(), "-runtime-handler=" + p.Runtime,
		"-config=" + os.DevNull, "-ginkgo.seed=1", "-ginkgo.no-color", "-ginkgo.timeout=" + p.Timeout.String(), "-ginkgo.junit-report=" + report,
	}
	if p.Only != "" {
		args = append(args, "-ginkgo.focus="+p.Only)
	}
	if err := os.Remove(report); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = p.Env
	if err := p.logged(cmd); err != nil {
		return nil, err
	}
	return some(readReport(report, ""))
}

// Read reads the report beside the log.
func (critest) Read(path, only string) (Results, error) { return readReport(path+".xml", only) }

// report is JUnit's form of results, as far as it is read.
type report struct {
	Cases []struct {
		Name   string `xml:"name,attr"`
		Status string `xml:"status,attr"`
	} `xml:"testsuite>testcase"`
}

// ofCase are the outcomes by JUnit's status, of tests that ran.
var ofCase = map[string]Outcome{"passed": Pass, "failed": Fail, "panicked": Fail, "timedout": Fail, "interrupted": Fail, "aborted": Fail, "skipped": Skip}

// readReport reads a report of ginkgo's: the tests that were asked for. What is
// left out on purpose, benchmarks, counts as nothing.
func readReport(path, only string) (Results, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	wanted, err := regexp.Compile(only)
	if err != nil {
		return nil, err
	}
	var r report
	if err := xml.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	all := Results{}
	for _, c := range r.Cases {
		name, isTest := strings.CutPrefix(c.Name, "[It] [k8s.io] ")
		if !isTest || strings.Contains(strings.ToLower(name), "benchmark") || !wanted.MatchString(name) {
			continue
		}
		outcome, known := ofCase[c.Status]
		if !known {
			return nil, fmt.Errorf("%s: %s has the status %q", path, name, c.Status)
		}
		if _, twice := all[name]; twice {
			return nil, fmt.Errorf("%s: %s is there twice", path, name)
		}
		all[name] = outcome
	}
	return all, nil
}
