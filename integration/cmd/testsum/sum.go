package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

// event is a line of "go test -json", see "go doc test2json".
type event struct {
	Action, Package, Test, Output string
	ImportPath                    string // of build-output and build-fail
	Elapsed                       float64
}

// each calls do for every line; one that is not JSON is output of the tool itself.
func each(r io.Reader, do func(event)) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		e := event{Action: "output", Output: lines.Text() + "\n"}
		if strings.HasPrefix(lines.Text(), "{") {
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				return err
			}
		}
		do(e)
	}
	return lines.Err()
}

// slow is how many seconds a test takes to be shown though it passed.
const slow = 2

// show prints a line for each package and slow test, and all a failed test
// said. It says whether everything passed.
func show(w io.Writer, r io.Reader) (ok bool, err error) {
	said := map[[2]string]*strings.Builder{}
	ok = true
	err = each(r, func(e event) {
		if e.Package == "" {
			e.Package = e.ImportPath
		}
		key := [2]string{e.Package, e.Test}
		switch e.Action {
		case "output", "build-output":
			if e.Package == "" {
				fmt.Fprint(w, e.Output)
				return
			}
			if said[key] == nil {
				said[key] = &strings.Builder{}
			}
			said[key].WriteString(e.Output)
		case "fail", "build-fail":
			ok = false
			if b := said[key]; b != nil {
				fmt.Fprint(w, b.String())
			}
			fmt.Fprintf(w, "FAIL  %s %s (%.1f s)\n", e.Package, e.Test, e.Elapsed)
		case "pass", "skip":
			if e.Elapsed >= slow && e.Test != "" && !strings.Contains(e.Test, "/") {
				fmt.Fprintf(w, "      %s (%.1f s)\n", e.Test, e.Elapsed)
			}
			if e.Test == "" {
				fmt.Fprintf(w, "%-5s %s (%.1f s)\n", map[string]string{"pass": "ok", "skip": "none"}[e.Action], e.Package, e.Elapsed)
			}
		}
		if e.Action != "output" {
			delete(said, key)
		}
	})
	return ok, err
}

// sum counts tests over several runs: a test's best claim is that it failed
// anywhere, then that it passed anywhere, then that it was skipped.
type sum struct {
	results map[string]string // "package test" -> pass, fail, skip
	parents map[string]bool   // tests that have subtests are not counted themselves
	listed  []string
}

func (s *sum) read(r io.Reader) error {
	if s.results == nil {
		s.results, s.parents = map[string]string{}, map[string]bool{}
	}
	finished := map[string]bool{}
	started := map[string]bool{}
	err := each(r, func(e event) {
		name := strings.TrimSpace(e.Package + " " + e.Test)
		switch e.Action {
		case "start", "run":
			started[name] = true
		case "build-fail":
			s.results[e.ImportPath+" (build)"] = "fail"
		case "pass", "fail", "skip":
			finished[name] = true
			if e.Test == "" && e.Action != "fail" {
				return
			}
			if i := strings.LastIndex(name, "/"); strings.Contains(e.Test, "/") {
				s.parents[name[:i]] = true
			}
			s.results[name] = worse(s.results[name], e.Action)
		}
	})
	for name := range started {
		if !finished[name] {
			s.results[name+" (did not end)"] = "fail"
		}
	}
	return err
}

func worse(a, b string) string {
	for _, r := range []string{"fail", "pass"} {
		if a == r || b == r {
			return r
		}
	}
	return b
}

// print names what failed or was skipped and closes with the counts. It says
// whether nothing failed.
func (s *sum) print(w io.Writer) bool {
	counts := map[string]int{}
	for _, name := range slices.Sorted(maps.Keys(s.results)) {
		result := s.results[name]
		if s.parents[name] || result == "fail" && !strings.Contains(name, " ") && s.explained(name) {
			continue
		}
		if result == "skip" {
			fmt.Fprintf(w, "skipped: %s\n", name)
			if s.listed != nil && !slices.Contains(s.listed, name[strings.LastIndex(name, " ")+1:]) {
				fmt.Fprintln(w, "  which is a failure: integration/skips.txt does not list it")
				result = "fail"
			}
		} else if result == "fail" {
			fmt.Fprintf(w, "failed: %s\n", name)
		}
		counts[result]++
	}
	fmt.Fprintf(w, "%d passed, %d failed, %d skipped\n", counts["pass"], counts["fail"], counts["skip"])
	return counts["fail"] == 0 && counts["pass"] > 0
}

// explained says whether a package's failure is that of one of its tests.
func (s *sum) explained(pkg string) bool {
	for name, result := range s.results {
		if result == "fail" && strings.HasPrefix(name, pkg+" ") {
			return true
		}
	}
	return false
}

// readSkips reads the first word of each line of the list; it is never nil.
func readSkips(path string) ([]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	listed := []string{}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) == 0 || strings.HasPrefix(f[0], "#") {
			continue
		}
		if len(f) == 1 {
			return nil, fmt.Errorf("%s: %s has no reason", path, f[0])
		}
		listed = append(listed, f[0])
	}
	return listed, nil
}
