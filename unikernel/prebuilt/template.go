package prebuilt

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"containerd-shim-uni/unikernel"
)

// Template is a kernel's command line in which words in braces stand for what
// is known of the container:
//
//	{args}      the process's arguments
//	{arg0}      the first of them, the program's name
//	{rest}      the others
//	{env*}      see below
//	{env}       its environment, NAME=VALUE
//	{cwd}       its working directory
//	{hostname}  the container's host name
//	{id}        the container's id
//	{ip} {prefix} {netmask}    IPv4 address, its prefix's length, the same as a mask
//	{gateway}                  of the IPv4 default route
//	{ip6} {prefix6} {gateway6} likewise for IPv6, link-local addresses aside
//	{mac} {mtu} {interface}    the interface's addresses, frame size and name
//	{dns}                      a name server's address
//
// The three lines before the last are about the first interface; {ip:2} is about the
// second, and {dns:2} is the second name server.
// A word of the template with such placeholders none of which has a value is
// left out: "ip={ip}" on a container without a network. "{{" and "}}" are
// braces. Runs of white space become one space.
//
// A word with {env*}, {args*} or {rest*} is there once for each of those:
// "--env={env*}" for OSv. It is quoted as a whole, as arguments are.
//
// Arguments and variables that hold white space or quotes, and empty ones, are
// put in double quotes, those that hold double quotes in single ones. No kernel
// agrees with another on more than that, so what holds both is an error.
//
// The empty template is {args}.
type Template string

// Words returns the command line's words. The values of placeholders may hold
// spaces; nothing holds a line end. An unknown placeholder, and a value that
// cannot be written, is ErrInvalid.
func (t Template) Words(app unikernel.App) ([]string, error) {
	if t == "" {
		t = "{args}"
	}
	var words []string
	for _, field := range strings.Fields(string(t)) {
		more, err := expandAll(field, app)
		if err != nil {
			return nil, fmt.Errorf("%w: kernel command line %q: %w", unikernel.ErrInvalid, string(t), err)
		}
		words = append(words, more...)
	}
	return words, nil
}

// named says that the line begins with the program's name.
func (t Template) named() bool {
	fields := strings.Fields(string(t))
	return len(fields) == 0 || fields[0] == "{args}" || fields[0] == "{arg0}"
}

// expandAll returns the words that one of the template becomes.
func expandAll(field string, app unikernel.App) ([]string, error) {
	v := &values{App: app}
	word, keep, err := expand(field, v)
	if err != nil {
		return nil, err
	}
	words := []string{word}
	if v.list != nil {
		words = nil
		for _, v.item = range v.list {
			word, _, err := expand(field, v)
			if err == nil {
				word, err = quote(word)
			}
			if err != nil {
				return nil, err
			}
			words = append(words, word)
		}
	}
	for _, word := range words {
		if !clean(word) {
			return nil, fmt.Errorf("%q holds a line end or another character that a command line cannot hold", word)
		}
	}
	if !keep {
		return nil, nil
	}
	return slices.DeleteFunc(words, func(w string) bool { return w == "" }), nil
}

// expand puts values into one word. keep is false when there were placeholders
// about the network and no value for any.
func expand(field string, v *values) (word string, keep bool, err error) {
	var b strings.Builder
	asked, found := 0, 0
	for rest := field; rest != ""; {
		i := strings.IndexAny(rest, "{}")
		if i < 0 {
			b.WriteString(rest)
			break
		}
		b.WriteString(rest[:i])
		rest = rest[i:]
		if rest[0] == '}' || strings.HasPrefix(rest, "{{") {
			if len(rest) < 2 || rest[1] != rest[0] {
				return "", false, fmt.Errorf("a brace stands alone in %q; \"}}\" is a brace", field)
			}
			b.WriteByte(rest[0])
			rest = rest[2:]
			continue
		}
		name, after, ok := strings.Cut(rest[1:], "}")
		if !ok {
			return "", false, fmt.Errorf("%q has no closing brace; \"{{\" is a brace", field)
		}
		value, network, err := v.get(name)
		if err != nil {
			return "", false, err
		}
		if network {
			asked++
			if value != "" {
				found++
			}
		}
		b.WriteString(value)
		rest = after
	}
	return b.String(), asked == 0 || found > 0, nil
}

// values are what placeholders stand for.
type values struct {
	unikernel.App
	// list is what the word is there once for, nil for a word that is there once;
	// item is the one it is there for.
	list []string
	item string
}

// each makes the word be there once for each of a list.
func (v *values) each(list []string) (string, error) {
	if v.list != nil && !slices.Equal(v.list, list) {
		return "", errors.New("a word can be repeated for one list only")
	}
	v.list = append([]string{}, list...)
	return v.item, nil
}

// get returns a placeholder's value, and whether it is about the network.
func (v *values) get(name string) (value string, network bool, err error) {
	args := v.Spec.Process.Args
	switch name {
	case "args":
		value, err = quoteAll(args)
	case "arg0":
		value, err = quoteAll(args[:min(1, len(args))])
	case "rest":
		value, err = quoteAll(args[min(1, len(args)):])
	case "args*":
		value, err = v.each(args)
	case "rest*":
		value, err = v.each(args[min(1, len(args)):])
	case "env*":
		value, err = v.each(v.Spec.Process.Env)
	case "env":
		value, err = quoteAll(v.Spec.Process.Env)
	case "cwd":
		value, err = quote(v.Spec.Process.Cwd)
	case "hostname":
		value = v.Spec.Hostname
	case "id":
		value = v.ID
	default:
		base, number, numbered := strings.Cut(name, ":")
		n := 1
		if numbered {
			if n, err = strconv.Atoi(number); err != nil || n < 1 {
				return "", false, fmt.Errorf("placeholder {%s}: %q is no number of an interface; the first is 1", name, number)
			}
		}
		if base == "dns" {
			if n <= len(v.Nameservers) && len(v.Network.Interfaces) > 0 { // else nobody can be asked
				value = v.Nameservers[n-1].String()
			}
			return value, true, nil
		}
		get, known := ofInterface[base]
		if !known {
			return "", false, fmt.Errorf("there is no placeholder {%s}; known are %s", name, placeholders())
		}
		if n <= len(v.Network.Interfaces) {
			value = get(v.Network.Interfaces[n-1], v.Network.Routes)
		}
		return value, true, nil
	}
	return value, false, err
}

// ofInterface are the placeholders about one interface. Empty is no value.
var ofInterface = map[string]func(unikernel.Interface, []unikernel.Route) string{
	"ip":        func(n unikernel.Interface, _ []unikernel.Route) string { return address(n, false) },
	"ip6":       func(n unikernel.Interface, _ []unikernel.Route) string { return address(n, true) },
	"prefix":    func(n unikernel.Interface, _ []unikernel.Route) string { return bits(n, false) },
	"prefix6":   func(n unikernel.Interface, _ []unikernel.Route) string { return bits(n, true) },
	"netmask":   netmask,
	"gateway":   func(n unikernel.Interface, r []unikernel.Route) string { return gateway(n, r, false) },
	"gateway6":  func(n unikernel.Interface, r []unikernel.Route) string { return gateway(n, r, true) },
	"mac":       func(n unikernel.Interface, _ []unikernel.Route) string { return n.MAC },
	"interface": func(n unikernel.Interface, _ []unikernel.Route) string { return n.Name },
	"mtu": func(n unikernel.Interface, _ []unikernel.Route) string {
		if n.MTU == 0 {
			return ""
		}
		return strconv.Itoa(n.MTU)
	},
}

func placeholders() string {
	names := []string{"args", "arg0", "rest", "args*", "rest*", "env*", "dns", "env", "cwd", "hostname", "id"}
	for name := range ofInterface {
		names = append(names, name)
	}
	slices.Sort(names)
	return "{" + strings.Join(names, "} {") + "}"
}

// prefix returns the first address of a family that others can reach.
func prefix(n unikernel.Interface, six bool) (netip.Prefix, bool) {
	for _, p := range n.Addresses {
		if a := p.Addr(); a.Is6() == six && !(six && a.IsLinkLocalUnicast()) {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

func address(n unikernel.Interface, six bool) string {
	p, ok := prefix(n, six)
	if !ok {
		return ""
	}
	return p.Addr().String()
}

func bits(n unikernel.Interface, six bool) string {
	p, ok := prefix(n, six)
	if !ok {
		return ""
	}
	return strconv.Itoa(p.Bits())
}

func netmask(n unikernel.Interface, _ []unikernel.Route) string {
	p, ok := prefix(n, false)
	if !ok {
		return ""
	}
	all := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	return netip.PrefixFrom(all, p.Bits()).Masked().Addr().String()
}

func gateway(n unikernel.Interface, routes []unikernel.Route, six bool) string {
	for _, r := range routes {
		if r.Interface == n.Name && r.Destination.Bits() == 0 && r.Gateway.IsValid() && r.Gateway.Is6() == six {
			return r.Gateway.String()
		}
	}
	return ""
}

func quoteAll(words []string) (string, error) {
	quoted := make([]string, len(words))
	for i, w := range words {
		var err error
		if quoted[i], err = quote(w); err != nil {
			return "", err
		}
	}
	return strings.Join(quoted, " "), nil
}

// quote writes one word as kernels read it.
func quote(s string) (string, error) {
	double, single := strings.Contains(s, `"`), strings.Contains(s, `'`)
	switch {
	case double && single:
		return "", fmt.Errorf("%q holds both kinds of quotes, which a kernel's command line cannot express", s)
	case double:
		return `'` + s + `'`, nil
	case single || s == "" || strings.ContainsAny(s, " \t\n\v\f\r"):
		return `"` + s + `"`, nil
	}
	return s, nil
}
