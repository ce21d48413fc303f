package integration

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"containerd-shim-uni/integration/peer"
)

func TestStreamsAndExitStatus(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		got := h.run(t, container{}, "sh", "-c", "echo out; echo err >&2; exit 7")
		if want := (peer.Result{Stdout: "out\n", Stderr: "err\n", Code: 7}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

func TestExitStatusRange(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		for _, code := range []int{0, 1, 255} {
			if got := h.run(t, container{}, "sh", "-c", fmt.Sprintf("exit %d", code)); got.Code != code {
				t.Errorf("exit %d came through as %+v", code, got)
			}
		}
	})
}

func TestStdinReachesEndOfFile(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		in, out := io.Pipe()
		r := h.start(t, container{stdin: in}, "cat")
		fmt.Fprintln(out, "hello")
		r.expect(t, "hello")
		out.Close()
		if code := r.finish(); code != 0 {
			t.Errorf("status %d, stderr %q", code, r.errs.String())
		}
	})
}

// With ctr 1.6 and 1.7 and runc this hangs when end-of-file is read before the
// task's creation has been answered: ctr then never calls CloseIO.
func TestStdinThatEndsAtOnce(t *testing.T) {
	uniOnly(t)
	on(t, func(t *testing.T, h *host) {
		got := h.run(t, container{stdin: strings.NewReader("hello\n")}, "cat")
		if want := (peer.Result{Stdout: "hello\n"}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

func TestMuchInputAndOutput(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		var in bytes.Buffer
		for i := range 300000 {
			fmt.Fprintln(&in, i)
		}
		want := in.String()
		got := h.run(t, container{stdin: &in}, "cat")
		if got.Code != 0 || got.Stdout != want {
			t.Errorf("%d bytes in, %d out, equal: %t, status %d, stderr %q",
				len(want), len(got.Stdout), got.Stdout == want, got.Code, got.Stderr)
		}
	})
}

func TestStaticProgramAlone(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		got := h.run(t, container{image: hello})
		if want := (peer.Result{Stdout: "hello from a static program\n"}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

func TestPythonFromDebianPackages(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		got := h.run(t, container{image: python}, "python3", "-c",
			"import botocore, hashlib, sqlite3, ssl; print(hashlib.sha256(b'uni').hexdigest()[:8], sqlite3.connect(':memory:').execute('select 6*7').fetchone()[0])")
		if want := (peer.Result{Stdout: "8d9315fc 42\n"}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

func TestFiveAtOnce(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() {
				id := fmt.Sprintf("five%d", i)
				got := h.run(t, container{id: id}, "sh", "-c", fmt.Sprintf("echo %s; exit %d", id, 10+i))
				if want := (peer.Result{Stdout: id + "\n", Code: 10 + i}); got != want {
					t.Errorf("got %+v, want %+v", got, want)
				}
			})
		}
		wg.Wait()
	})
}

func TestProcessSettings(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		got := h.run(t, container{flags: []string{"--cwd", "/tmp", "--env", "GREETING=two words"}},
			"sh", "-c", `pwd; echo "$GREETING"; id -u; echo $$; umask; touch /tmp/file /file && echo wrote`)
		if want := (peer.Result{Stdout: "/tmp\ntwo words\n0\n1\n0022\nwrote\n"}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

func TestProgramThatCannotStart(t *testing.T) {
	tests := []struct{ name, program, want string }{
		{"missing", "nosuch", `exec: "nosuch": executable file not found in $PATH`},
		{"missing path", "/no/such", `exec: "/no/such": stat /no/such: no such file or directory`},
		{"not executable", "/etc/notexec", `exec: "/etc/notexec": permission denied`},
		{"not a program", "/etc/noformat", `exec format error`},
	}
	on(t, func(t *testing.T, h *host) {
		for _, tt := range tests {
			got := h.run(t, container{}, tt.program)
			if got.Code != 1 || !strings.Contains(got.Stderr, tt.want) {
				t.Errorf("%s: got %+v, want status 1 and %q", tt.name, got, tt.want)
			}
		}
	})
}

func TestBindMounts(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "in"), []byte("from the host\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		mount := func(dst, mode string) string {
			return fmt.Sprintf("type=bind,src=%s,dst=%s,options=rbind:%s", dir, dst, mode)
		}
		got := h.run(t, container{flags: []string{"--mount", mount("/rw", "rw"), "--mount", mount("/ro", "ro")}},
			"sh", "-c", "cat /ro/in; echo from the guest >/rw/out; cat /ro/out; (echo x >/ro/x) 2>/dev/null || echo read-only")
		if want := (peer.Result{Stdout: "from the host\nfrom the guest\nread-only\n"}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		if out, err := os.ReadFile(filepath.Join(dir, "out")); string(out) != "from the guest\n" {
			t.Errorf("the host reads %q, %v", out, err)
		}
	})
}

func TestRootIsNotShared(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		for range 2 {
			got := h.run(t, container{}, "sh", "-c", "cat /mark; echo mark >/mark; rm /etc/group; ls /etc/group /mark")
			if got.Stdout != "/mark\n" {
				t.Errorf("a container sees another's files: %+v", got)
			}
		}
	})
}
