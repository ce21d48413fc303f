package task

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestNameservers(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	pipe := filepath.Join(dir, "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	usual := file("usual", "# comment\nsearch x\nnameserver 127.0.0.53\n nameserver\t10.96.0.10 \nnameserver fd00::a\noptions ndots:5\nnameserver nonsense\nnameserver\n")
	for name, tt := range map[string]struct {
		mounts []specs.Mount
		want   []netip.Addr
	}{
		"none":    {nil, nil},
		"usual":   {[]specs.Mount{{Destination: "/etc/hosts", Source: pipe}, {Destination: "/etc/resolv.conf/", Source: usual}}, []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00::a")}},
		"missing": {[]specs.Mount{{Destination: resolvConf, Source: filepath.Join(dir, "none")}}, nil},
		"a pipe":  {[]specs.Mount{{Destination: resolvConf, Source: pipe}}, nil},
		"endless": {[]specs.Mount{{Destination: resolvConf, Source: file("endless", strings.Repeat("#\n", maxResolvConf)+"nameserver 10.0.0.1\n")}}, nil},
	} {
		if got := nameservers(tt.mounts); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v", name, got)
		}
	}
}
