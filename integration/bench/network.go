package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// transferMB is how much each measurement of throughput moves.
const transferMB = 64

// server is a container that serves a file of transferMB.
type server struct {
	name, image string
	flags       []string
	command     []string
	path        string // of the file
	bare        bool   // also measure it without what connects it
}

// servers are what is measured: a server in C under both runtimes and, if there
// is a kernel for it, one in Go in each guest.
func servers() []server {
	script := fmt.Sprintf(`dd if=/dev/zero of=/tmp/f bs=1M count=%d 2>/dev/null; exec httpd -f -p 80 -h /tmp`, transferMB)
	httpd := []string{"sh", "-c", script}
	list := []server{
		{name: uni, image: busybox, flags: []string{"--runtime", uni}, command: httpd, path: "/f", bare: true},
		{name: runc, image: busybox, flags: []string{"--runtime", runc}, command: httpd, path: "/f"},
	}
	if os.Getenv(nanosDir) == "" {
		return list
	}
	inGo, zeros := []string{"/probe", "serve", ":80"}, fmt.Sprintf("/zeros/%d", transferMB<<20)
	for _, guest := range []string{"linux", "nanos"} {
		list = append(list, server{
			name: "in Go, guest " + guest, image: probe, command: inGo, path: zeros, bare: guest == "nanos",
			flags: []string{"--runtime", uni, "--annotation", "io.containerd.uni.guest=" + guest},
		})
	}
	return append(list, server{name: "in Go, " + runc, image: probe, flags: []string{"--runtime", runc}, command: inGo, path: zeros})
}

// network measures each server behind a veth, as CNI plugins connect it, and
// some of the same machines on their bare taps.
func (b *bench) network(ctx context.Context, t *table) error {
	b.RemoveAll(ctx)
	n, err := newWire()
	if err != nil {
		return err
	}
	defer n.close()
	t.head(fmt.Sprintf("network between the host and a container (median of 100 pings; %d MB by HTTP)", transferMB))
	for _, s := range servers() {
		args := append([]string{"run", "-d", "--with-ns", "network:" + n.pod}, s.flags...)
		r := b.Ctr(ctx, nil, append(append(args, s.image, "net"), s.command...)...)
		if r.Code != 0 {
			return fmt.Errorf("start a server with %s: %s", s.name, r.Stderr)
		}
		if err := n.measure(ctx, t, s.name, s.path); err != nil {
			return err
		}
		if s.bare {
			if err := n.bare(); err != nil {
				return err
			}
			if err := n.measure(ctx, t, "  same machine, bare tap", s.path); err != nil {
				return err
			}
			if err := n.restore(); err != nil {
				return err
			}
		}
		b.RemoveAll(ctx)
	}
	return nil
}

// wire is a container's network namespace and that of its only neighbour.
type wire struct{ dir, pod, peer string }

func newWire() (*wire, error) {
	dir, err := os.MkdirTemp("", "uni-net-")
	if err != nil {
		return nil, err
	}
	w := &wire{dir: dir, pod: filepath.Join(dir, "pod"), peer: filepath.Join(dir, "peer")}
	for _, path := range []string{w.pod, w.peer} {
		if err := os.WriteFile(path, nil, 0o444); err != nil {
			return nil, err
		}
		if out, err := exec.Command("unshare", "--net="+path, "ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
			return nil, fmt.Errorf("make a network namespace: %w: %s", err, out)
		}
	}
	_, err = w.sh(w.peer, `ip link add eth0 type veth peer name eth0 netns `+w.pod+`; ip link set eth0 up; ip addr add 10.0.0.1/24 dev eth0`)
	if err == nil {
		_, err = w.sh(w.pod, `ip link set eth0 up; ip addr add 10.0.0.2/24 dev eth0`)
	}
	return w, err
}

func (w *wire) close() {
	_ = exec.Command("umount", w.pod, w.peer).Run() // the directory shows what is left
	_ = os.RemoveAll(w.dir)
}

func (w *wire) sh(netns, script string) (string, error) {
	out, err := exec.Command("nsenter", "--net="+netns, "sh", "-ec", script).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", script, err, out)
	}
	return string(out), nil
}

// bare takes the veth and the programs between it and the tap out of the way:
// the neighbour gets the tap itself, under its own address.
func (w *wire) bare() error {
	_, err := w.sh(w.pod, `tap=$(ls /proc/self/net/dev_snmp6 | grep ^uni); tc qdisc del dev $tap clsact; ip link set $tap netns `+w.peer)
	if err != nil {
		return err
	}
	_, err = w.sh(w.peer, `tap=$(ls /proc/self/net/dev_snmp6 | grep ^uni)
		mac=$(ip -o link show eth0 | sed 's/.*ether \([^ ]*\).*/\1/')
		ip addr del 10.0.0.1/24 dev eth0; ip link set eth0 down
		ip link set $tap address $mac arp on; ip link set $tap up; ip addr add 10.0.0.1/24 dev $tap`)
	return err
}

func (w *wire) restore() error {
	_, err := w.sh(w.peer, `tap=$(ls /proc/self/net/dev_snmp6 | grep ^uni); ip link del $tap; ip link set eth0 up; ip addr add 10.0.0.1/24 dev eth0`)
	return err
}

var roundTrip = regexp.MustCompile(`time=([0-9.]+) ms`)

func (w *wire) measure(ctx context.Context, t *table, name, path string) error {
	if err := w.await(ctx, path); err != nil {
		return err
	}
	out, err := w.sh(w.peer, `busybox ping -c 100 -i 0.02 10.0.0.2`)
	if err != nil {
		return err
	}
	var times []time.Duration
	for _, m := range roundTrip.FindAllStringSubmatch(out, -1) {
		ms, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			return err
		}
		times = append(times, time.Duration(ms*float64(time.Millisecond)))
	}
	if len(times) == 0 {
		return fmt.Errorf("no answer to ping: %s", out)
	}
	took, err := w.timed(`busybox wget -q -O /dev/null http://10.0.0.2` + path)
	if err != nil {
		return err
	}
	t.line(name, "%7.2f ms, %6.0f MB/s", millis(median(times)), transferMB/took.Seconds())
	return nil
}

// await returns when the container serves.
func (w *wire) await(ctx context.Context, path string) error {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline) && ctx.Err() == nil; time.Sleep(100 * time.Millisecond) {
		if out, err := w.sh(w.peer, `timeout 5 busybox wget -q -O - http://10.0.0.2`+path+` | head -c 1 | wc -c`); err == nil && strings.TrimSpace(out) == "1" {
			return nil
		}
	}
	return fmt.Errorf("the container does not serve")
}

func (w *wire) timed(script string) (time.Duration, error) {
	begin := time.Now()
	_, err := w.sh(w.peer, script)
	return time.Since(begin), err
}
