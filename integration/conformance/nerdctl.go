package conformance

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"containerd-shim-uni/integration/peer"
)

// nerdctl runs the tests of nerdctl's commands for containers with the nerdctl that
// "make peers" builds, which they find in $PATH.
type nerdctl struct{ module }

// modes are the tests' two, which need a run each: newer tests, and those that their
// authors did not carry over to their newer form ("flaky", of which many are not).
var modes = []string{"false", "true"}

// hostAddress is one of the namespace's that is not loopback's: published ports are
// asked for there. It is of a range for documentation (RFC 5737).
const hostAddress = "192.0.2.1/24"

// reruns is how often the tests that failed are run again, as their authors do it.
const reruns = 2

// Prepare makes the suite's program.
func (s nerdctl) Prepare(ctx context.Context, cache string) error {
	if _, err := exec.LookPath("unbuffer"); err != nil {
		return errors.New("the tests want unbuffer: apt-get install expect")
	}
	return s.module.Prepare(ctx, cache)
}

// Run runs the tests on a containerd of their own.
func (s nerdctl) Run(ctx context.Context, p Place) (all Results, err error) {
	if err := hostLink(); err != nil {
		return nil, err
	}
	dir := filepath.Join(p.Dir, p.Runtime)
	for _, d := range []string{"", "bin", "data", "net.d"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	host, err := peer.Start(ctx, peer.Options{
		Version: "2.4.2", Programs: filepath.Join(p.Cache, "peers"), Dir: dir, Namespace: "nerdctl-test", Env: p.Env, Marks: []string{p.State},
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, host.Stop(), removeBridges()) }()
	if err := s.wrap(p, dir, host.Address()); err != nil {
		return nil, err
	}
	p.Env = append(p.Env[:len(p.Env):len(p.Env)], addressEnv+"="+host.Address())
	for i, e := range p.Env {
		if path, ok := strings.CutPrefix(e, "PATH="); ok {
			p.Env[i] = "PATH=" + filepath.Join(dir, "bin") + ":" + path
		}
	}
	for _, mode := range modes {
		if err := s.runMode(ctx, p, dir, mode); err != nil {
			return nil, err
		}
	}
	return some(s.Read(p.Log, ""))
}

// runMode runs the tests of a mode, and those that fail again.
func (s nerdctl) runMode(ctx context.Context, p Place, dir, mode string) error {
	log, only := p.Log, p.Only
	for n := range reruns { // of an earlier run, which failed more
		if err := os.Remove(logOf(log, mode, n+1)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	for n := range 1 + reruns {
		tmp, err := os.MkdirTemp(dir, "tmp")
		if err != nil {
			return err
		}
		args := append([]string{"-test.v", "-test.parallel=1", "-test.timeout=" + p.Timeout.String(), "-test.only-flaky=" + mode}, s.Args...)
		if only != "" {
			args = append(args, "-test.run="+only)
		}
		cmd := exec.CommandContext(ctx, s.program(p.Cache), args...)
		cmd.Env = append(p.Env, "TMPDIR="+tmp) // with a lock that a run may leave
		p.Log = logOf(log, mode, n)
		if err := p.logged(cmd); err != nil {
			return err
		}
		r, err := ReadFile(p.Log, "")
		if err != nil {
			return err
		}
		var failed []string
		for test, outcome := range r {
			if outcome == Fail && !strings.Contains(test, "/") {
				failed = append(failed, test)
			}
		}
		if len(failed) == 0 {
			return nil
		}
		slices.Sort(failed)
		only = "^(" + strings.Join(failed, "|") + ")$"
	}
	return nil
}

// Read reads the logs of both modes, a test is skipped in one of them, and of what was
// run again.
func (s nerdctl) Read(path, only string) (Results, error) {
	all := Results{}
	for _, mode := range modes {
		for n := range 1 + reruns {
			r, err := ReadFile(logOf(path, mode, n), only)
			if n > 0 && errors.Is(err, os.ErrNotExist) {
				break
			}
			if err != nil {
				return nil, err
			}
			maps.DeleteFunc(r, func(test string, o Outcome) bool { return o == Skip && all[test] != Missing })
			maps.Copy(all, r)
		}
	}
	return all, nil
}

// logOf is the log of a run of a mode.
func logOf(log, mode string, n int) string {
	end := map[string]string{"false": "-new", "true": "-old"}[mode]
	if n > 0 {
		end += fmt.Sprintf("-again%d", n)
	}
	return strings.TrimSuffix(log, ".log") + end + ".log"
}

// addressEnv is how nerdctl, and its tests as Suites has them, know containerd.
const addressEnv = "CONTAINERD_ADDRESS"

// wrap puts a nerdctl below dir that knows this containerd and the runtime, but where a
// test asks for another. The tests tell theirs neither.
func (nerdctl) wrap(p Place, dir, address string) error {
	program, err := Tool(p.Cache, "tools-*", "nerdctl")
	if err != nil {
		return err
	}
	script := fmt.Sprintf(`#!/bin/bash
export `+addressEnv+`=%[1]q CNI_PATH=%[2]q NETCONFPATH=%[3]q
args=(--data-root=%[4]q)
words=
for a; do
	args+=("$a")
	case $a in
	-*) ;;
	*)
		words+=" $a"
		case $words in
		" run" | " create" | " container run" | " container create") args+=(--runtime=%[5]q) ;;
		esac
		;;
	esac
done
exec %[6]q "${args[@]}"
`, address, filepath.Dir(program), filepath.Join(dir, "net.d"), filepath.Join(dir, "data"), types[p.Runtime], program)
	return os.WriteFile(filepath.Join(dir, "bin/nerdctl"), []byte(script), 0o755)
}

// hostLink gives the namespace a link with hostAddress.
func hostLink() error {
	const name = "host0"
	if _, err := netlink.LinkByName(name); err == nil {
		return nil
	}
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "peer"}
	if err := netlink.LinkAdd(link); err != nil {
		return fmt.Errorf("add the link %s: %w", name, err)
	}
	ip, n, err := net.ParseCIDR(hostAddress)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: n.Mask}}); err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// removeBridges removes the bridges of nerdctl's networks: the next run makes others
// with the same addresses.
func removeBridges() error {
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, l := range links {
		if l.Type() == "bridge" {
			err = errors.Join(err, netlink.LinkDel(l))
		}
	}
	return err
}
