package conformance

import (
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
	got, err := ParseExpected(strings.NewReader("# x\n\nclient  TestA  because of this\n"))
	if want := (Expected{"client": {"TestA": "because of this"}}); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"client TestA", "client TestA x\nclient TestA y"} {
		if _, err := ParseExpected(strings.NewReader(bad)); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

// Each way in which the file and the runs can differ is a finding.
func TestCompare(t *testing.T) {
	theirs := Results{"Both": Pass, "New": Pass, "Known": Pass, "Known/sub": Pass, "Mended": Pass, "Neither": Fail, "Gone": Pass, "Skipped": Skip}
	ours := Results{"Both": Pass, "New": Fail, "Known": Fail, "Known/sub": Fail, "Mended": Pass, "Neither": Fail, "Skipped": Pass}
	got := Compare(theirs, ours, map[string]string{"Known": "r", "Mended": "r", "Neither": "r"})
	want := Compared{
		Theirs: Summary{5, 1, 1}, Ours: Summary{3, 3, 0},
		Unexpected: []string{"Gone: not run", "New: FAIL"}, Mended: []string{"Mended"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}
