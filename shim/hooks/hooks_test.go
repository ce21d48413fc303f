package hooks

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"containerd-shim-uni/unikernel"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func shell(script string) specs.Hook {
	return specs.Hook{Path: "/bin/sh", Args: []string{"hook", "-c", script}, Env: []string{"PATH=/usr/bin:/bin"}}
}

func app(h specs.Hooks) unikernel.App {
	return unikernel.App{Namespace: "default", ID: "c1", Spec: &specs.Spec{Hooks: &h, Annotations: map[string]string{"a": "b"}}}
}

func TestCreateRunsInOrderWithTheState(t *testing.T) {
	dir := t.TempDir()
	order, state := filepath.Join(dir, "order"), filepath.Join(dir, "state")
	h := specs.Hooks{
		Prestart:      []specs.Hook{shell("echo prestart >>" + order)}, //lint:ignore SA1019 in use
		CreateRuntime: []specs.Hook{shell("cat >" + state + "; echo \"$0 $SECRET\" >>" + order)},
	}
	t.Setenv("SECRET", "ours")
	if err := Create(t.Context(), app(h), "/bundle", 42); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(order); string(got) != "prestart\n/bin/sh \n" && string(got) != "prestart\nhook \n" {
		t.Errorf("order and environment: %q", got)
	}
	raw, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	var got specs.State
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	if got.ID != "c1" || got.Pid != 42 || got.Status != specs.StateCreating || got.Bundle != "/bundle" || got.Annotations["a"] != "b" || got.Version != specs.Version {
		t.Errorf("state %+v", got)
	}
}

func TestFailureStopsAndQuotesTheHook(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "mark")
	h := specs.Hooks{CreateRuntime: []specs.Hook{shell("echo no such network >&2; exit 3"), shell("touch " + mark)}}
	err := Create(t.Context(), app(h), "/bundle", 42)
	if err == nil || !strings.Contains(err.Error(), "createRuntime hook /bin/sh") || !strings.Contains(err.Error(), "no such network") {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("the second hook ran after the first failed")
	}
}

func TestStoppedRunsAll(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "mark")
	h := specs.Hooks{Poststop: []specs.Hook{shell("exit 1"), shell("touch " + mark)}}
	if err := Stopped(t.Context(), app(h), "/bundle"); err == nil {
		t.Error("the first hook's failure is lost")
	}
	if _, err := os.Stat(mark); err != nil {
		t.Error("the second hook did not run")
	}
}

func TestTimeout(t *testing.T) {
	second, zero := 1, 0
	slow := shell("sleep 600 & wait")
	slow.Timeout = &second
	if err := Started(t.Context(), app(specs.Hooks{Poststart: []specs.Hook{slow}}), "/bundle", 42); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want DeadlineExceeded", err)
	}
	slow.Timeout = &zero
	if err := Started(t.Context(), app(specs.Hooks{Poststart: []specs.Hook{slow}}), "/bundle", 42); !errors.Is(err, unikernel.ErrInvalid) {
		t.Errorf("error %v, want ErrInvalid", err)
	}
}

func TestCheck(t *testing.T) {
	inside := []specs.Hook{shell("true")}
	for name, test := range map[string]struct {
		hooks *specs.Hooks
		want  error
	}{
		"none":            {nil, nil},
		"host":            {&specs.Hooks{CreateRuntime: inside, Poststop: inside}, nil},
		"createContainer": {&specs.Hooks{CreateContainer: inside}, unikernel.ErrNotImplemented},
		"startContainer":  {&specs.Hooks{StartContainer: inside}, unikernel.ErrNotImplemented},
	} {
		if err := Check(test.hooks); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
}
