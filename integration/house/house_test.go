package house

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	module      = "containerd-shim-uni"
	staticcheck = "honnef.co/go/tools/cmd/staticcheck@v0.8.2"
)

// repository runs a command at the root of the module and returns its output;
// with wantQuiet any output fails the test.
func repository(t *testing.T, wantQuiet bool, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = "../.."
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil || wantQuiet && len(out) > 0 {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, errs.String())
	}
	return out
}

func TestFormat(t *testing.T) { repository(t, true, "gofmt", "-l", ".") }

func TestVet(t *testing.T) { repository(t, true, "go", "vet", "./...") }

func TestStaticcheck(t *testing.T) { repository(t, true, "go", "run", staticcheck, "./...") }

func TestScriptsParse(t *testing.T) {
	for name := range strings.FieldsSeq(string(repository(t, false, "git", "ls-files", "*.sh", ".ci/run"))) {
		repository(t, true, "bash", "-n", name)
	}
}

// TestAbsentFiles: a test that needs a file not to be there makes sure of that. The
// place that nobody should have is a home directory on some hosts.
func TestAbsentFiles(t *testing.T) {
	const place = "/non" + "existent"
	for name := range strings.FieldsSeq(string(repository(t, false, "git", "ls-files", "*_test.go"))) {
		text, err := os.ReadFile(filepath.Join("../..", name))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), `"`+place) || strings.Contains(string(text), "="+place) {
			t.Errorf("%s takes for granted that the host has no %s: name a file of t.TempDir()", name, place)
		}
	}
}

// TestTables: the rows of a table have as many cells as its head: one that is torn
// apart by a careless merge has not.
func TestTables(t *testing.T) {
	for name := range strings.FieldsSeq(string(repository(t, false, "git", "ls-files", "*.md"))) {
		text, err := os.ReadFile(filepath.Join("../..", name))
		if err != nil {
			t.Fatal(err)
		}
		cells, code := 0, false
		for i, line := range strings.Split(string(text), "\n") {
			if strings.HasPrefix(line, "```") {
				code = !code
			}
			if code || !strings.HasPrefix(line, "|") {
				cells = 0
				continue
			}
			switch n := strings.Count(line, "|") - strings.Count(line, `\|`); {
			case cells == 0:
				cells = n
			case n != cells:
				t.Errorf("%s:%d: a row of %d cells in a table of %d", name, i+1, n-1, cells-1)
			}
		}
	}
}

// pkg is what this test reads of "go list -json".
type pkg struct {
	Dir, ImportPath, Name              string
	GoFiles                            []string
	Imports, TestImports, XTestImports []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	var all []pkg
	d := json.NewDecoder(strings.NewReader(string(repository(t, false, "go", "list", "-json", "./..."))))
	for {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// mayImport says which rooms a room may look into, besides itself. Commands
// wire rooms together and may see all.
var mayImport = map[string][]string{
	"config":      nil,
	"deploy":      {"config"},
	"unikernel":   nil,
	"builder":     {"unikernel", "config"},
	"libvirt":     {"unikernel", "config"},
	"shim":        {"unikernel", "config"},
	"integration": {"unikernel", "config"},
}

// oracles are what tests of a package compare it with, against the rules.
var oracles = map[string]string{"builder/image": "github.com/containerd/containerd/v2/pkg/archive"}

// allowed says whether a package may import another, by the rules of the house.
func allowed(from, to string) bool {
	switch {
	case strings.HasPrefix(to, "github.com/containerd/"):
		return room(from) == "shim"
	case strings.HasPrefix(to, "libvirt.org/"):
		return room(from) == "libvirt"
	case room(to) == "" || strings.Contains(from, "/cmd/"):
		return true
	case from == module+"/unikernel":
		return false
	}
	return room(from) == room(to) || slices.Contains(mayImport[room(from)], room(to))
}

// room is the top folder of a package of this module, empty for others.
func room(path string) string {
	rest, ours := strings.CutPrefix(path, module+"/")
	if !ours {
		return ""
	}
	top, _, _ := strings.Cut(rest, "/")
	return top
}

func TestImports(t *testing.T) {
	for _, p := range packages(t) {
		if _, known := mayImport[room(p.ImportPath)]; !known {
			t.Errorf("%s: no rule says what the folder may import", p.ImportPath)
		}
		// A test outside of its package may ask who does the same for everybody else.
		tests := slices.DeleteFunc(slices.Clone(p.XTestImports), func(to string) bool { return to == oracles[strings.TrimPrefix(p.ImportPath, module+"/")] })
		for _, to := range slices.Concat(p.Imports, p.TestImports, tests) {
			if to != p.ImportPath && !allowed(p.ImportPath, to) {
				t.Errorf("%s must not import %s", p.ImportPath, to)
			}
		}
	}
}

func TestImportRules(t *testing.T) {
	tests := []struct {
		from, to string
		want     bool
	}{
		{"shim/task", "unikernel", true},
		{"shim/task", "libvirt", false},
		{"shim/cmd/uni-shim", "libvirt", true},
		{"builder", "shim/task", false},
		{"builder/cmd/uni", "config", true},
		{"unikernel/linux", "unikernel/linux/wire", true},
		{"unikernel", "unikernel/linux", false},
		{"unikernel/linux", "config", false},
		{"config", "unikernel", false},
	}
	for _, tt := range tests {
		if got := allowed(module+"/"+tt.from, module+"/"+tt.to); got != tt.want {
			t.Errorf("%s imports %s: allowed is %t, want %t", tt.from, tt.to, got, tt.want)
		}
	}
	for from, want := range map[string]bool{"shim/task": true, "builder": false, "builder/cmd/uni": false, "integration": false} {
		if got := allowed(module+"/"+from, "github.com/containerd/errdefs"); got != want {
			t.Errorf("%s imports containerd: allowed is %t, want %t", from, got, want)
		}
	}
}

func TestEveryPackageHasDoc(t *testing.T) {
	for _, p := range packages(t) {
		if p.Name == "main" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(p.Dir, "doc.go"))
		if err != nil {
			t.Errorf("%s has no doc.go", p.ImportPath)
		} else if !strings.HasPrefix(string(text), "// Package "+p.Name+" ") {
			t.Errorf("%s/doc.go does not begin with what the package is", p.ImportPath)
		}
	}
}
