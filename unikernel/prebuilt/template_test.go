package prebuilt

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"containerd-shim-uni/unikernel"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func app(args ...string) unikernel.App {
	return unikernel.App{ID: "c1", Spec: &specs.Spec{
		Hostname: "host",
		Process:  &specs.Process{Args: args, Env: []string{"A=1", "B=two words"}, Cwd: "/w"},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.NetworkNamespace}, {Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}}},
	}}
}

func network() unikernel.Network {
	return unikernel.Network{
		Interfaces: []unikernel.Interface{
			{Name: "eth0", MAC: "0a:58:0a:00:00:02", MTU: 1450, Addresses: []netip.Prefix{
				netip.MustParsePrefix("fe80::1/64"), netip.MustParsePrefix("fd00::2/64"), netip.MustParsePrefix("10.0.0.2/20")}},
			{Name: "eth1", MAC: "0a:58:0a:00:00:03", Addresses: []netip.Prefix{netip.MustParsePrefix("10.1.0.2/32")}},
		},
		Routes: []unikernel.Route{
			{Interface: "eth0", Destination: netip.MustParsePrefix("10.9.0.0/16"), Gateway: netip.MustParseAddr("10.0.0.9")},
			{Interface: "eth0", Destination: netip.MustParsePrefix("::/0"), Gateway: netip.MustParseAddr("fd00::1")},
			{Interface: "eth0", Destination: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("10.0.0.1")},
		},
	}
}

func TestTemplate(t *testing.T) {
	for name, tt := range map[string]struct {
		template Template
		args     []string
		alone    bool // without a network
		want     []string
	}{
		"default":        {"", []string{"/hello", "a b", ""}, false, []string{`/hello "a b" ""`}},
		"name and rest":  {"{arg0} x -- {rest}", []string{"/hello w", "a b", ""}, false, []string{`"/hello w"`, "x", "--", `"a b" ""`}},
		"name alone":     {"{arg0} -- {rest}", []string{"/hello"}, false, []string{"/hello", "--"}},
		"no name":        {"{arg0} -- {rest}", nil, false, []string{"--"}},
		"each variable":  {"--env={env*} {rest*}", []string{"x", "a b", "c"}, false, []string{"--env=A=1", `"--env=B=two words"`, `"a b"`, "c"}},
		"each of none":   {"-{rest*} x", []string{"x"}, false, []string{"x"}},
		"braced star":    {"{{env*}}", nil, false, []string{"{env*}"}},
		"quotes":         {"{args}", []string{`it's`, `say "x"`, `a\b`}, false, []string{`"it's" 'say "x"' a\b`}},
		"fixed":          {" console=ttyS0\n\t quiet ", nil, false, []string{"console=ttyS0", "quiet"}},
		"no arguments":   {"quiet {args}", nil, false, []string{"quiet"}},
		"braces":         {`x={{"a":{{}}}}`, nil, false, []string{`x={"a":{}}`}},
		"process":        {"env.vars=[ {env} ] {cwd} {hostname} {id}", nil, false, []string{"env.vars=[", `A=1 "B=two words"`, "]", "/w", "host", "c1"}},
		"Unikraft":       {"netdev.ip={ip}/{prefix}:{gateway} -- {args}", []string{"a"}, false, []string{"netdev.ip=10.0.0.2/20:10.0.0.1", "--", "a"}},
		"Unikraft alone": {"netdev.ip={ip}/{prefix}:{gateway} -- {args}", []string{"a"}, true, []string{"--", "a"}},
		"Linux":          {"ip={ip}::{gateway}:{netmask}:{hostname}:{interface}", nil, false, []string{"ip=10.0.0.2::10.0.0.1:255.255.240.0:host:eth0"}},
		"second":         {"{ip:1} {ip:2}/{prefix:2}:{gateway:2} {netmask:2} {mac:2} {mtu:2}", nil, false, []string{"10.0.0.2", "10.1.0.2/32:", "255.255.255.255", "0a:58:0a:00:00:03"}},
		"name servers":   {"--nameserver={dns} {dns:2} x{dns:3}", nil, false, []string{"--nameserver=10.96.0.10", "fd00::a"}},
		"third":          {"a{ip:3} b", nil, false, []string{"b"}},
		"IPv6":           {"{ip6}/{prefix6} {gateway6} {ip6:2} {mac} {mtu}", nil, false, []string{"fd00::2/64", "fd00::1", "0a:58:0a:00:00:02", "1450"}},
		"part":           {"x={ip6:2},{ip:2}", nil, false, []string{"x=,10.1.0.2"}},
	} {
		a := app(tt.args...)
		if !tt.alone {
			a.Network = network()
			a.Nameservers = []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00::a")}
		}
		got, err := tt.template.Words(a)
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %q, %v, want %q", name, got, err, tt.want)
		}
	}
}

func TestTemplateRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		template Template
		args     []string
		want     string
	}{
		"unknown":         {"{ntp}", nil, "no placeholder {ntp}; known are {arg0} {args}"},
		"zeroth":          {"{ip:0}", nil, "no number of an interface"},
		"no number":       {"{ip:eth0}", nil, "no number of an interface"},
		"not numbered":    {"{args:2}", nil, "no placeholder {args:2}"},
		"open":            {"a{args", nil, "no closing brace"},
		"closed":          {"a}b", nil, "stands alone"},
		"spaces inside":   {"{args }", nil, "no closing brace"},
		"two lists":       {"{env*}{args*}", []string{"a"}, "one list only"},
		"star and quotes": {`"{args*}`, []string{"a'"}, "both kinds"},
		"both quotes":     {"", []string{`it's "x"`}, "both kinds of quotes"},
		"line end":        {"", []string{"a\nb"}, "cannot hold"},
		"zero":            {"", []string{"a\x00b"}, "cannot hold"},
		"not UTF-8":       {"", []string{"a\xff"}, "cannot hold"},
		"control in text": {"a\x1bb", nil, "cannot hold"},
	} {
		if got, err := tt.template.Words(app(tt.args...)); !errors.Is(err, unikernel.ErrInvalid) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
}

func FuzzTemplate(f *testing.F) {
	f.Add("{args} {{}} {ip:2}", "a b")
	f.Fuzz(func(t *testing.T, template, arg string) {
		a := app(arg)
		a.Network = network()
		words, err := Template(template).Words(a)
		if err != nil && !errors.Is(err, unikernel.ErrInvalid) {
			t.Errorf("%q: %v", template, err)
		}
		for _, w := range words {
			if w == "" || strings.ContainsAny(w, "\n\t\x00") {
				t.Errorf("%q: word %q", template, w)
			}
		}
	})
}
