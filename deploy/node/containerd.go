package node

import (
	"debug/buildinfo"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"containerd-shim-uni/deploy/containerd"
)

// The configuration of a containerd that a distribution runs, and where k3s and rke2
// keep that of theirs.
const (
	mainFile = "/etc/containerd/config.toml"
	dropIn   = "/etc/containerd/conf.d/uni.toml"
)

var rancher = []struct {
	dir   string
	units []string
}{
	{"/var/lib/rancher/k3s/agent/etc/containerd", []string{"k3s", "k3s-agent"}},
	{"/var/lib/rancher/rke2/agent/etc/containerd", []string{"rke2-server", "rke2-agent"}},
}

// A file that was not there before begins with one of these, and goes again.
const (
	made     = "# made by \"uni node install\"\n"
	madeMain = made + "version = 2\n"
	// base gives a template all of k3s' own configuration.
	base         = "{{ template \"base\" . }}\n"
	madeTemplate = made + base
)

// begin and end are around lines of ours in a file of somebody else's.
const (
	begin = "# begin of the handler of io.containerd.uni.v1, which \"uni node uninstall\" removes\n"
	end   = "# end of the handler of io.containerd.uni.v1\n"
)

// edit is what a file is to be; empty if it is to go.
type edit struct{ path, text string }

// containerd says how its configuration has to change to offer the runtime, or not to,
// and which services have to be restarted then.
func (n Node) containerd(offer bool) (edits []edit, restart []string, err error) {
	for _, r := range rancher {
		generated, err := n.read(filepath.Join(r.dir, "config.toml"))
		if err != nil {
			return nil, nil, err
		}
		if generated != "" {
			edits, err := n.template(r.dir, generated, offer)
			return edits, r.units, err
		}
	}
	edits, err = n.plain(offer)
	return edits, []string{"containerd"}, err
}

// read returns a file's text; one that is not there is empty.
func (n Node) read(path string) (string, error) {
	at, err := n.resolve(path)
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(at)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return string(text), err
}

// template is containerd for k3s, which writes the configuration whenever it starts.
func (n Node) template(dir, generated string, offer bool) ([]edit, error) {
	file, err := parse(filepath.Join(dir, "config.toml"), generated)
	if err != nil {
		return nil, err
	}
	drop := filepath.Join(dir, "config-v3.toml.d/uni.toml")
	if file.imports(drop) {
		return n.change(drop, offer, whole(containerd.V3))
	}
	name, lines := "config.toml.tmpl", containerd.V2
	if file.Version >= 3 {
		name, lines = "config-v3.toml.tmpl", containerd.V3
	}
	return n.change(filepath.Join(dir, name), offer, part(madeTemplate, lines))
}

// plain is containerd for a containerd of its own service.
func (n Node) plain(offer bool) ([]edit, error) {
	text, err := n.read(mainFile)
	if err != nil {
		return nil, err
	}
	generation, err := n.generation()
	if err != nil && offer {
		return nil, err
	}
	if text == "" && generation >= 2 {
		text = "version = 3\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n"
		if offer {
			drop, err := n.change(dropIn, true, whole(containerd.V3))
			return append(drop, edit{mainFile, text}), err
		}
	}
	file, err := parse(mainFile, text)
	if err != nil {
		return nil, err
	}
	if offer {
		if err := file.fit(text); err != nil {
			return nil, err
		}
	}
	if generation >= 2 && file.imports(dropIn) {
		return n.change(dropIn, offer, whole(containerd.V3))
	}
	lines := containerd.V2
	if file.Version >= 3 {
		lines = containerd.V3
	}
	edits, err := n.change(mainFile, offer, part(madeMain, lines))
	if !offer { // whichever way it was configured
		more, moreErr := n.change(dropIn, false, whole(containerd.V3))
		edits, err = append(edits, more...), errors.Join(err, moreErr)
	}
	return edits, err
}

// change is how a file has to change to have, or not to have, what to gives it.
func (n Node) change(path string, offer bool, to func(have string, offer bool) string) ([]edit, error) {
	have, err := n.read(path)
	if err != nil {
		return nil, err
	}
	if want := to(have, offer); want != have {
		return []edit{{path, want}}, nil
	}
	return nil, nil
}

// whole is a file that has lines and nothing else.
func whole(lines string) func(string, bool) string {
	return func(_ string, offer bool) string {
		if offer {
			return lines
		}
		return ""
	}
}

// part is a file that has lines among others, and begins with head if it is ours
// alone.
func part(head, lines string) func(string, bool) string {
	return func(have string, offer bool) string {
		before, rest, found := strings.Cut(have, begin)
		after := ""
		if found {
			_, after, _ = strings.Cut(rest, end)
		} else if configured(have) {
			return have // by somebody else
		}
		if !offer {
			if found && before+after == head {
				return ""
			}
			return before + after
		}
		if have == "" {
			before = head
		}
		if before != "" && !strings.HasSuffix(before, "\n") {
			before += "\n"
		}
		return before + begin + tables(lines) + end + after
	}
}

// tables are the lines of a file without its own keys: a version is said once.
func tables(lines string) string {
	var kept []string
	for line := range strings.Lines(lines) {
		if !strings.HasPrefix(line, "version") && strings.TrimSpace(line) != "" {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "")
}

// configured says whether a text has a handler of the runtime; a template is no TOML.
func configured(text string) bool {
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		if strings.Contains(line, `"io.containerd.uni.v1"`) || strings.Contains(line, `'io.containerd.uni.v1'`) {
			return true
		}
	}
	return false
}

// settings are what is read of containerd's configuration, of every version.
type settings struct {
	Version  int      `toml:"version"`
	Imports  []string `toml:"imports"`
	Disabled []string `toml:"disabled_plugins"`
}

func parse(path, text string) (s settings, err error) {
	if err := toml.Unmarshal([]byte(text), &s); err != nil {
		return s, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// imports says whether the configuration takes in a file.
func (s settings) imports(path string) bool {
	return slices.ContainsFunc(s.Imports, func(pattern string) bool {
		yes, err := filepath.Match(pattern, path)
		return yes && err == nil
	})
}

// fit is an error if the configuration cannot have a handler for Kubernetes.
func (s settings) fit(text string) error {
	if text != "" && s.Version < 2 {
		return fmt.Errorf("%s is of version 1, which containerd has given up: write it anew (containerd config migrate, containerd config default) and try again", mainFile)
	}
	if i := slices.IndexFunc(s.Disabled, func(p string) bool { return p == "cri" || strings.HasSuffix(p, ".cri") }); i >= 0 {
		return fmt.Errorf("%s disables the plugin %s, by which Kubernetes uses containerd: take it out of disabled_plugins and try again", mainFile, s.Disabled[i])
	}
	return nil
}

// generation is 1 or 2: that of the containerd on the node, which is not run.
func (n Node) generation() (int, error) {
	for _, dir := range []string{"/usr/local/bin", "/usr/local/sbin", "/usr/bin", "/usr/sbin", "/bin", "/opt/bin"} {
		at, err := n.resolve(dir + "/containerd")
		if err != nil {
			return 0, err
		}
		info, err := buildinfo.ReadFile(at)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("%s/containerd is no program that tells its version: %w", dir, err)
		}
		if strings.Contains(info.Path, "/containerd/v2/") {
			return 2, nil
		}
		return 1, nil
	}
	return 0, errors.New("no containerd on the node, nor the directories of k3s or rke2: install one of them first; k3s has to have started once")
}
