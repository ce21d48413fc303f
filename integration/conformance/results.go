package conformance

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
)

// Outcome is what became of a test.
type Outcome string

// Outcomes, as "go test -v" spells them; Missing is a test without one: its
// program ended before.
const (
	Pass    Outcome = "PASS"
	Fail    Outcome = "FAIL"
	Skip    Outcome = "SKIP"
	Missing Outcome = ""
)

// Results are outcomes by test. Only tests at the top, and what they run
// directly below, are told apart.
type Results map[string]Outcome

var outcome = regexp.MustCompile(`^\s*--- (PASS|FAIL|SKIP): (\S+) \(`)

// Read reads the output of "go test -v".
func Read(r io.Reader) (Results, error) {
	all := Results{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		if m := outcome.FindStringSubmatch(lines.Text()); m != nil {
			all[m[2]] = Outcome(m[1])
		}
	}
	return all, lines.Err()
}

// ReadFile reads such output from a file: the tests that a pattern names, or all.
func ReadFile(path, only string) (Results, error) {
	wanted, err := regexp.Compile(only)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	all, err := Read(f)
	maps.DeleteFunc(all, func(test string, _ Outcome) bool {
		top, _, _ := strings.Cut(test, "/")
		return !wanted.MatchString(top)
	})
	return all, err
}

// Expected are reasons by suite and test, as ParseExpected reads them.
type Expected map[string]map[string]string

// ParseExpected reads lines of suite, test and reason; "#" begins a comment. A
// test whose name has spaces stands in double quotes.
func ParseExpected(r io.Reader) (Expected, error) {
	all := Expected{}
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		text := strings.TrimSpace(lines.Text())
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		suite, rest, _ := strings.Cut(text, " ")
		rest, end := strings.TrimSpace(rest), " "
		if strings.HasPrefix(rest, `"`) {
			rest, end = rest[1:], `"`
		}
		test, reason, _ := strings.Cut(rest, end)
		if reason = strings.TrimSpace(reason); reason == "" {
			return nil, fmt.Errorf("line %d: want suite, test and reason", n)
		}
		if all[suite] == nil {
			all[suite] = map[string]string{}
		}
		if _, twice := all[suite][test]; twice {
			return nil, fmt.Errorf("line %d: %s %s is there twice", n, suite, test)
		}
		all[suite][test] = reason
	}
	return all, lines.Err()
}

// sometimes begins the reason of a test that fails on a slow machine only: it may pass.
const sometimes = "sometimes"

// Compared is what two runs of a suite say about the runtime.
type Compared struct {
	Theirs, Ours Summary
	// Unexpected are tests that runc passes and this runtime does not, without a
	// reason in the file; Mended those with a reason that pass.
	Unexpected, Mended []string
}

// Summary counts outcomes.
type Summary struct{ Passed, Failed, Skipped int }

// Compare compares a run on runc with one on this runtime.
func Compare(theirs, ours Results, reasons map[string]string) Compared {
	c := Compared{Theirs: sum(theirs), Ours: sum(ours)}
	for test, outcome := range theirs {
		if outcome != Pass || ours[test] == Pass {
			continue
		}
		if _, known := reasons[test]; !known && !hasParent(test, reasons) {
			c.Unexpected = append(c.Unexpected, fmt.Sprintf("%s: %s", test, cmp.Or(ours[test], "not run")))
		}
	}
	for test, reason := range reasons {
		if theirs[test] == Pass && ours[test] == Pass && !strings.HasPrefix(reason, sometimes) {
			c.Mended = append(c.Mended, test)
		}
	}
	slices.Sort(c.Unexpected)
	slices.Sort(c.Mended)
	return c
}

// Findings are the differences between a suite's runs and the file of reasons.
func (c Compared) Findings(suite, file string) error {
	var found []error
	for _, t := range c.Unexpected {
		found = append(found, fmt.Errorf("%s: runc passes %s", suite, t))
	}
	for _, t := range c.Mended {
		found = append(found, fmt.Errorf("%s: %s passes: remove it from %s", suite, t, file))
	}
	return errors.Join(found...)
}

// hasParent says whether a test that runs this one is in a list.
func hasParent[V any](test string, list map[string]V) bool {
	for i, r := range test {
		if r == '/' {
			if _, known := list[test[:i]]; known {
				return true
			}
		}
	}
	return false
}

func sum(r Results) (s Summary) {
	for test, o := range r {
		if hasParent(test, r) {
			continue
		}
		switch o {
		case Pass:
			s.Passed++
		case Fail:
			s.Failed++
		case Skip:
			s.Skipped++
		}
	}
	return s
}
