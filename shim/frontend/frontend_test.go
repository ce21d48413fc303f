package frontend

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"containerd-shim-uni/config"
	"containerd-shim-uni/shim/cgroup"
	"containerd-shim-uni/shim/sandbox"
	"containerd-shim-uni/shim/task"
	"containerd-shim-uni/unikernel"

	"github.com/containerd/containerd/api/runtime/bootstrap/v1"
	taskapi2 "github.com/containerd/containerd/api/runtime/task/v2"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

const envTestShim = "UNI_TEST_SHIM"

// TestMain makes this program a shim on a fake host when start runs it as one.
func TestMain(m *testing.M) {
	if os.Getenv(envTestShim) != "" {
		os.Exit(testRuntime(&fakeHost{}).Main(os.Args))
	}
	os.Exit(m.Run())
}

func testRuntime(h *fakeHost) Runtime {
	return Runtime{Name: "io.containerd.uni.v1", Version: "v1", Revision: "r", Host: func(namespace, group string) Host {
		h.group = namespace + "/" + group
		return h
	}}
}

// fakeHost has no parts; it notes what is cleaned up.
type fakeHost struct {
	group   string
	cleaned []string
	err     error
	// meanwhile happens while a machine is cleaned up.
	meanwhile func()
}

var errNoParts = errors.New("no parts")

func (h *fakeHost) Templates(config.Config) sandbox.Templates { return nil }

func (h *fakeHost) Machines(context.Context, config.Config) (sandbox.Machines, error) {
	return nil, errNoParts
}
func (h *fakeHost) Disks(config.Config) (task.Disks, error) { return nil, errNoParts }
func (h *fakeHost) Declared(cfg config.Config, _ *specs.Spec, _ unikernel.Rootfs) (config.Config, error) {
	return cfg, nil
}
func (h *fakeHost) Guest(config.Config, bool) (unikernel.Guest, error) {
	return nil, errNoParts
}
func (h *fakeHost) Cgroup(string, cgroup.Place, cgroup.Limits) (sandbox.Group, error) {
	return nil, errNoParts
}
func (h *fakeHost) Networks(config.Config) sandbox.Networks { return fakeNetworks{} }
func (h *fakeHost) CleanUp(_ context.Context, _ config.Config, name string) error {
	h.cleaned = append(h.cleaned, name)
	if h.meanwhile != nil {
		h.meanwhile()
	}
	return h.err
}
func (h *fakeHost) Close() error { return nil }

type fakeNetworks struct{ sandbox.Networks }

func (fakeNetworks) Remove(string, string) error { return nil }
func (fakeNetworks) Drop(string) error           { return nil }

// bundle makes a bundle as containerd does.
func bundle(t *testing.T, annotations string) string {
	t.Helper()
	dir := t.TempDir()
	spec := fmt.Sprintf(`{"process": {}, "annotations": {%s}}`, annotations)
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(spec), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "log"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// socketDir is short enough for a socket with a name of 64 bytes.
func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func marshal(t *testing.T, m proto.Message) []byte {
	t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func options(t *testing.T, path string) *anypb.Any {
	t.Helper()
	return &anypb.Any{TypeUrl: "runtimeoptions.v1.Options", Value: marshal(t, &runtimeoptions.Options{ConfigPath: path})}
}

func TestFlags(t *testing.T) {
	base := []string{"shim", "-namespace", "ns", "-id", "c"}
	f, err := parse(append(base, "-address", "/a", "-publish-binary", "/b", "-bundle", "/x", "-debug", "delete"))
	if err != nil || f.action != "delete" || f.bundle != "/x" || f.group != "c" || !f.debug || f.address != "/a" || f.publishBinary != "/b" {
		t.Errorf("%+v, %v", f, err)
	}
	if f, err = parse(base); err != nil || f.bundle == "" || f.action != "" {
		t.Errorf("%+v, %v", f, err)
	}
	for _, args := range [][]string{{"shim"}, {"shim", "-namespace", "ns"}, append(base, "stop"), append(base, "-nosuch")} {
		if _, err := parse(args); err == nil {
			t.Errorf("%v: no error", args)
		}
	}
}

func TestParams(t *testing.T) {
	f := flags{id: "c", namespace: "ns", address: "/cli"}
	t.Setenv(envTTRPCAddress, "/env")
	boot := &bootstrap.BootstrapParams{
		InstanceID: "c", Namespace: "ns", ContainerdTtrpcAddress: "/t", ContainerdGrpcAddress: "/g", ContainerdBinary: "/bin",
		LogLevel: bootstrap.LogLevel_LOG_LEVEL_DEBUG, SocketDir: proto.String("/sock"),
		Extensions: []*bootstrap.Extension{{}, {Value: options(t, "/boot")}},
	}
	other := proto.Clone(boot).(*bootstrap.BootstrapParams)
	other.InstanceID = "d"
	old := params{options: nil, ttrpcAddress: "/env", address: "/cli", socketDir: defaultSocketDir}
	for name, test := range map[string]struct {
		input []byte
		want  params
		path  string
	}{
		"nothing":         {nil, old, ""},
		"options (< 2.3)": {marshal(t, options(t, "/old")), old, "/old"},
		"BootstrapParams": {marshal(t, boot), params{
			ttrpcAddress: "/t", address: "/g", binary: "/bin", socketDir: "/sock", debug: true, bootstrap: true}, "/boot"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := readParams(f, bytes.NewReader(test.input))
			if err != nil {
				t.Fatal(err)
			}
			path := ""
			if got.options != nil {
				var o runtimeoptions.Options
				if err := proto.Unmarshal(got.options.Value, &o); err != nil {
					t.Fatal(err)
				}
				path = o.ConfigPath
			}
			got.options = nil
			if got != test.want || path != test.path {
				t.Errorf("got %+v, options %q", got, path)
			}
		})
	}
	for name, input := range map[string][]byte{
		"garbage": []byte("\xff\xff garbage"), "too much": make([]byte, maxStdin+1),
	} {
		if _, err := readParams(f, bytes.NewReader(input)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	// Of another container: taken for options, which mean nothing to anybody.
	if got, err := readParams(f, bytes.NewReader(marshal(t, other))); err == nil && got.address != "/cli" {
		t.Errorf("parameters of another container were taken: %+v", got)
	}
}

func FuzzParams(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\n\x01c\x12\x02ns"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := readParams(flags{id: "c", namespace: "ns"}, bytes.NewReader(data))
		if err == nil && p.socketDir == "" {
			t.Error("no socket directory")
		}
	})
}

func TestGroups(t *testing.T) {
	for annotations, want := range map[string]string{
		"":                                    "c",
		`"io.kubernetes.cri.sandbox-id": "p"`: "p",
		`"io.containerd.runc.v2.group": "g"`:  "g",
		`"io.kubernetes.cri.sandbox-id": ""`:  "c",
		`"io.kubernetes.cri.sandbox-id": "p", "io.containerd.runc.v2.group": "g"`: "g",
	} {
		if got, err := groupOf(bundle(t, annotations), "c"); err != nil || got != want {
			t.Errorf("%s: %q, %v", annotations, got, err)
		}
	}
	if got, err := groupOf(t.TempDir(), "c"); err != nil || got != "c" { // the sandbox API says what it is later
		t.Errorf("nothing is said: %q, %v", got, err)
	}
}

// TestSocketPath: the name is what containerd's own shims compute.
func TestSocketPath(t *testing.T) {
	got := socketPath("/run/containerd/s", "/run/containerd/containerd.sock", "default", "c1")
	const digest = 64 // of SHA-256, in hexadecimal
	if len(filepath.Base(got)) != digest || filepath.Dir(got) != "/run/containerd/s" {
		t.Errorf("path %s", got)
	}
	if got == socketPath("/run/containerd/s", "/run/containerd/containerd.sock", "default", "c2") {
		t.Error("two groups have one socket")
	}
}

func TestListen(t *testing.T) {
	path := filepath.Join(socketDir(t), "new", "s")
	l, err := listen(path)
	if err != nil || l == nil {
		t.Fatalf("%v, %v", l, err)
	}
	if again, err := listen(path); again != nil || err != nil {
		t.Errorf("a socket that is served: %v, %v", again, err)
	}
	l.Close() // and the file stays, as after a crash
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	l, err = listen(path)
	if err != nil || l == nil {
		t.Fatalf("a stale socket: %v, %v", l, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	l.Close()
}

// TestServeWithoutABundle: a shim whose client has gone before it began, and took
// the bundle away, leaves no socket.
func TestServeWithoutABundle(t *testing.T) {
	path := filepath.Join(socketDir(t), "s")
	err := testRuntime(&fakeHost{}).serve(t.Context(), flags{bundle: filepath.Join(t.TempDir(), "gone"), socket: path, namespace: "ns", id: "c"})
	if err == nil {
		t.Fatal("it served")
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

func TestInfoAndVersion(t *testing.T) {
	var out bytes.Buffer
	r := testRuntime(&fakeHost{})
	if err := r.run(t.Context(), []string{"shim", "-info"}, nil, &out); err != nil {
		t.Fatal(err)
	}
	var info types.RuntimeInfo
	if err := proto.Unmarshal(out.Bytes(), &info); err != nil || info.Name != r.Name || info.Version.Version != "v1" {
		t.Errorf("%v, %v", &info, err)
	}
	var f features.Features
	if err := json.Unmarshal(info.GetFeatures().GetValue(), &f); err != nil || info.Features.TypeUrl != featuresType ||
		!slices.Contains(f.Linux.Namespaces, "pid") || slices.Contains(f.Linux.Namespaces, "user") ||
		!slices.Contains(f.MountOptions, "rro") || slices.Contains(f.MountOptions, "rshared") || slices.Contains(f.MountOptions, "idmap") || *f.Linux.MountExtensions.IDMap.Enabled {
		t.Errorf("features %s, %v", info.GetFeatures().GetValue(), err)
	}
	out.Reset()
	if err := r.run(t.Context(), []string{"/x/shim", "-v"}, nil, &out); err != nil || !strings.Contains(out.String(), "v1") {
		t.Errorf("%q, %v", &out, err)
	}
}

// launcher is a program that has none of the parts; server is the one beside it.
func launcher(server string) Runtime {
	return Runtime{Name: "io.containerd.uni.v1", Version: "v1", Server: server}
}

// TestStartServeShutdown runs the shim as containerd does, by one program and by two.
func TestStartServeShutdown(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]Runtime{"one": testRuntime(nil), "two": launcher(filepath.Base(self))} {
		t.Run(name, func(t *testing.T) { startServeShutdown(t, r) })
	}
}

func startServeShutdown(t *testing.T, r Runtime) {
	t.Helper()
	t.Setenv(envTestShim, "1")
	t.Setenv(envTTRPCAddress, filepath.Join(t.TempDir(), "absent"))
	dir := bundle(t, "")
	input := marshal(t, &bootstrap.BootstrapParams{InstanceID: "c", Namespace: "ns", SocketDir: proto.String(socketDir(t))})
	command := []string{"shim", "-namespace", "ns", "-id", "c", "-address", "/a", "-bundle", dir, "start"}
	address := func() string {
		var out bytes.Buffer
		if err := r.run(t.Context(), command, bytes.NewReader(input), &out); err != nil {
			t.Fatal(err)
		}
		// What containerd reads, as it does (core/runtime/v2, parseStartResponse).
		var result bootstrap.BootstrapResult
		if err := proto.Unmarshal(out.Bytes(), &result); err != nil || result.Version != 3 || result.Protocol != "ttrpc" {
			t.Fatalf("%q: %+v, %v", &out, &result, err)
		}
		return result.Address
	}
	first := address()
	path, ok := strings.CutPrefix(first, "unix://")
	if !ok {
		t.Fatalf("address %q", first)
	}
	if again := address(); again != first {
		t.Errorf("second start: %q", again)
	}
	if file, err := os.ReadFile(filepath.Join(dir, "address")); err != nil || string(file) != first {
		t.Errorf("file address: %q, %v", file, err)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	defer client.Close()
	v3 := taskapi.NewTTRPCTaskClient(client)
	v2 := taskapi2.NewTTRPCTaskClient(client)
	c3, err := v3.Connect(t.Context(), &taskapi.ConnectRequest{ID: "c"})
	if err != nil || c3.ShimPid == 0 {
		t.Fatalf("connect: %v, %v", c3, err)
	}
	c2, err := v2.Connect(t.Context(), &taskapi2.ConnectRequest{ID: "c"})
	if err != nil || c2.ShimPid != c3.ShimPid {
		t.Errorf("connect, version 2: %v, %v", c2, err)
	}
	if _, err := v2.State(t.Context(), &taskapi2.StateRequest{ID: "c"}); !errdefs.IsNotFound(errgrpc.ToNative(err)) {
		t.Errorf("state: %v", err)
	}
	if _, err := v3.Shutdown(t.Context(), &taskapi.ShutdownRequest{ID: "c"}); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	waitGone(t, int(c3.ShimPid))
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

// waitGone waits until a child of ours has ended.
func waitGone(t *testing.T, pid int) {
	t.Helper()
	for t.Context().Err() == nil {
		if got, _ := unix.Wait4(pid, nil, unix.WNOHANG, nil); got == pid || unix.Kill(pid, 0) != nil {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func TestStartFails(t *testing.T) {
	var out bytes.Buffer
	dir := socketDir(t)
	input := marshal(t, &bootstrap.BootstrapParams{InstanceID: "c", Namespace: "ns", SocketDir: proto.String(dir)})
	err := testRuntime(nil).run(t.Context(), []string{"shim", "-namespace", "ns", "-id", "c", "-bundle", t.TempDir(), "start"},
		bytes.NewReader(input), &out)
	if err == nil || out.Len() > 0 {
		t.Errorf("without a config.json: %v, %q", err, &out)
	}
	if entries, _ := os.ReadDir(dir); len(entries) > 0 {
		t.Error("a socket is left")
	}
}

func TestDelete(t *testing.T) {
	state := socketDir(t)
	dir := bundle(t, `"io.kubernetes.cri.sandbox-id": "pod"`)
	cfg := filepath.Join(dir, "uni.toml")
	text := fmt.Sprintf("[storage]\nstate_dir = %q\ndata_dir = %q\n", state+"/s", state+"/d")
	if err := errors.Join(os.WriteFile(cfg, []byte(text), 0o600), os.WriteFile(filepath.Join(dir, "uni-config"), []byte(cfg), 0o600)); err != nil {
		t.Fatal(err)
	}
	storage := config.Storage{StateDir: state + "/s", DataDir: state + "/d"}
	names := task.NewNames(storage, "ns", "c", "")
	leave := func() {
		for _, d := range []string{names.Sandbox.State, names.Data} {
			if err := os.MkdirAll(d, 0o700); err != nil {
				t.Fatal(err)
			}
		}
	}
	socket := filepath.Join(state, "sock")
	if err := os.WriteFile(filepath.Join(dir, "address"), []byte("unix://"+socket), 0o600); err != nil {
		t.Fatal(err)
	}
	by := func(r Runtime) (*taskapi.DeleteResponse, error) {
		var out bytes.Buffer
		err := r.run(t.Context(), []string{"shim", "-namespace", "ns", "-id", "c", "-bundle", dir, "delete"}, nil, &out)
		var resp taskapi.DeleteResponse
		if err == nil {
			err = proto.Unmarshal(out.Bytes(), &resp)
		} else if out.Len() > 0 {
			t.Error("something was printed beside the error")
		}
		return &resp, err
	}
	run := func(h *fakeHost) (*taskapi.DeleteResponse, error) { return by(testRuntime(h)) }
	// launch wants the small program to answer, or to leave it to the one with the parts.
	launch := func(what string, answers bool) {
		t.Helper()
		resp, err := by(launcher("none"))
		if answers && (err != nil || resp.ExitStatus != 137 || resp.ExitedAt.AsTime().IsZero()) {
			t.Errorf("%s: %v, %v", what, resp, err)
		} else if !answers && (!errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "none")) {
			t.Errorf("%s: the program with the parts was not run: %v", what, err)
		}
	}

	l, err := listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	h := &fakeHost{}
	if _, err := run(h); err != nil || len(h.cleaned) > 0 {
		t.Errorf("the shim lives and has forgotten the container: %v, cleaned %v", err, h.cleaned)
	}
	launch("the shim lives and has forgotten the container", true)
	if _, err := os.Stat(socket); err != nil {
		t.Errorf("socket of a shim that lives: %v", err)
	}
	l.Close()

	leave()
	launch("something is left", false)
	h = &fakeHost{}
	resp, err := run(h)
	if err != nil || resp.ExitStatus != 137 || resp.ExitedAt.AsTime().IsZero() {
		t.Errorf("delete: %v, %v", resp, err)
	}
	if len(h.cleaned) != 1 || h.cleaned[0] != "uni-ns--c" || h.group != "ns/pod" {
		t.Errorf("machines cleaned up: %v in group %s", h.cleaned, h.group)
	}
	if names.Exists() {
		t.Error("directories are left")
	}
	if _, err := os.Stat(socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the stale socket is left: %v", err)
	}
	h = &fakeHost{}
	if _, err := run(h); err != nil || len(h.cleaned) > 0 {
		t.Errorf("delete once more: %v, cleaned %v", err, h.cleaned)
	}
	launch("nothing is left", true)
	for _, d := range []string{names.Data, names.Sandbox.State, task.ShimDir(storage, "ns", "pod")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
		launch(d+" is left", false)
		if err := os.Remove(d); err != nil {
			t.Fatal(err)
		}
	}

	// A shim that is being killed still has its socket when containerd knows.
	leave()
	if l, err = listen(socket); err != nil {
		t.Fatal(err)
	}
	if _, err := run(&fakeHost{meanwhile: func() { l.Close() }}); err != nil {
		t.Errorf("delete beside a dying shim: %v", err)
	}
	if _, err := os.Stat(socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket of a shim that was dying is left: %v", err)
	}

	leave()
	boom := errors.New("boom")
	if _, err := run(&fakeHost{err: boom}); !errors.Is(err, boom) {
		t.Errorf("error %v", err)
	}
	if names.Exists() {
		t.Error("directories are left because something else failed")
	}
}

// TestLog: neither an absent nor a slow reader stops the shim, and a later one
// reads on.
func TestLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	w := fifoLog{fd}
	for range 2000 { // more than a pipe holds
		if n, err := w.Write(bytes.Repeat([]byte("x"), 99)); n != 99 || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
	}
	r, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1<<16)
	if n, err := r.Read(buf); n == 0 || err != nil {
		t.Errorf("read %d, %v", n, err)
	}
	r.Close()
	if _, err := w.Write([]byte("after\n")); err != nil {
		t.Errorf("the reader left: %v", err)
	}
}

// Each containerd gets the newest form that it takes.
func TestAnswer(t *testing.T) {
	const address = "unix:///run/containerd/s/x"
	if got, err := (params{}).answer(address); string(got) != address || err != nil {
		t.Errorf("plain: %q, %v", got, err)
	}
	// A plain address is none of the newer forms by accident.
	if proto.Unmarshal([]byte(address), &bootstrap.BootstrapResult{}) == nil {
		t.Error("the plain address is a BootstrapResult, too")
	}
	got, err := params{bootstrap: true}.answer(address)
	var result bootstrap.BootstrapResult
	if err != nil || proto.Unmarshal(got, &result) != nil || result.Address != address || result.Version != taskVersion {
		t.Errorf("%q, %v", got, err)
	}
}
