package conformance

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestRead(t *testing.T) {
	got, err := Read(strings.NewReader("=== RUN   TestA\n--- PASS: TestA (0.01s)\n    --- FAIL: TestB/x_y (0.00s)\n--- FAIL: TestB (0.00s)\nnoise\n--- SKIP: TestC (0.00s)\n"))
	if want := (Results{"TestA": Pass, "TestB/x_y": Fail, "TestB": Fail, "TestC": Skip}); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v", got, err)
	}
}

func TestParseExpected(t *testing.T) {
	got, err := ParseExpected(strings.NewReader("# x\n\nclient  TestA  because of this\ncritest \"a b/c\" it has no c\n"))
	if want := (Expected{"client": {"TestA": "because of this"}, "critest": {"a b/c": "it has no c"}}); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"client TestA", `critest "a b"`, `critest "a b c`, "client TestA x\nclient TestA y"} {
		if _, err := ParseExpected(strings.NewReader(bad)); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

// Each way in which the file and the runs can differ is a finding.
func TestCompare(t *testing.T) {
	theirs := Results{"Both": Pass, "New": Pass, "Known": Pass, "Known/sub": Pass, "Mended": Pass, "Neither": Fail, "Gone": Pass, "Skipped": Skip, "Slow": Pass}
	ours := Results{"Both": Pass, "New": Fail, "Known": Fail, "Known/sub": Fail, "Mended": Pass, "Neither": Fail, "Skipped": Pass, "Slow": Pass}
	got := Compare(theirs, ours, map[string]string{"Known": "r", "Mended": "r", "Neither": "r", "Slow": "sometimes late"})
	want := Compared{
		Theirs: Summary{6, 1, 1}, Ours: Summary{4, 3, 0},
		Unexpected: []string{"Gone: not run", "New: FAIL"}, Mended: []string{"Mended"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestReadReport(t *testing.T) {
	write := func(cases string) string {
		path := filepath.Join(t.TempDir(), "report.xml")
		text := `<?xml version="1.0"?><testsuites><testsuite>` + cases + `</testsuite></testsuites>`
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	path := write(`<testcase name="[BeforeSuite]" status="passed"/><testcase name="[It] [k8s.io] Pod a/b [Conformance]" status="passed"/>
		<testcase name="[It] [k8s.io] Pod c" status="panicked"><failure>x</failure></testcase><testcase name="[It] [k8s.io] Pod d" status="skipped"/>
		<testcase name="[It] [k8s.io] Benchmark x" status="skipped"/>`)
	got, err := readReport(path, "")
	if want := (Results{"Pod a/b [Conformance]": Pass, "Pod c": Fail, "Pod d": Skip}); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	if s := sum(got); s != (Summary{1, 1, 1}) {
		t.Errorf("%+v", s)
	}
	if got, err := readReport(path, "Pod c"); err != nil || len(got) != 1 {
		t.Errorf("some: %v, %v", got, err)
	}
	for _, bad := range []string{`<testcase name="[It] [k8s.io] Pod" status="odd"/>`, `<testcase name="[It] [k8s.io] Pod" status="passed"/><testcase name="[It] [k8s.io] Pod" status="failed"/>`} {
		if got, err := readReport(write(bad), ""); err == nil {
			t.Errorf("%s: %v", bad, got)
		}
	}
}

// TestReadRunsAgain: of nerdctl's tests each runs in one of two modes, and again where it
// failed.
func TestReadRunsAgain(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"x-new":        "--- PASS: TestA (0.01s)\n--- SKIP: TestB (0.00s)\n--- SKIP: TestC (0.00s)\n--- SKIP: TestD (0.00s)\n",
		"x-old":        "--- SKIP: TestA (0.00s)\n--- FAIL: TestB (0.01s)\n--- FAIL: TestC (0.01s)\n--- SKIP: TestD (0.00s)\n",
		"x-old-again1": "--- PASS: TestB (0.01s)\n--- FAIL: TestC (0.01s)\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name+".log"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := nerdctl{}.Read(filepath.Join(dir, "x.log"), "")
	if want := (Results{"TestA": Pass, "TestB": Pass, "TestC": Fail, "TestD": Skip}); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	if err := os.Remove(filepath.Join(dir, "x-old.log")); err != nil {
		t.Fatal(err)
	}
	if got, err := (nerdctl{}).Read(filepath.Join(dir, "x.log"), ""); err == nil {
		t.Errorf("without a mode's log: %v", got)
	}
}
