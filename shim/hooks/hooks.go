package hooks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"containerd-shim-uni/unikernel"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// maxErrorOutput bounds how many bytes of a failed hook's output its error quotes.
const maxErrorOutput = 4096

// Check refuses hooks that would have to run inside the container.
func Check(hooks *specs.Hooks) error {
	if hooks == nil {
		return nil
	}
	if len(hooks.CreateContainer) > 0 || len(hooks.StartContainer) > 0 {
		return fmt.Errorf("createContainer and startContainer hooks run in the container's namespaces, and this container is a virtual machine: use createRuntime: %w", unikernel.ErrNotImplemented)
	}
	return nil
}

// Create runs the prestart and createRuntime hooks, in this order, and stops
// at the first that fails. pid is a process in the container's network
// namespace.
func Create(ctx context.Context, app unikernel.App, bundle string, pid int) error {
	if app.Spec.Hooks == nil {
		return nil
	}
	state := stateOf(app, bundle, pid, specs.StateCreating)
	//lint:ignore SA1019 deprecated in the specification, and in use
	if err := run(ctx, "prestart", app.Spec.Hooks.Prestart, state); err != nil {
		return err
	}
	return run(ctx, "createRuntime", app.Spec.Hooks.CreateRuntime, state)
}

// Started runs the poststart hooks and stops at the first that fails.
func Started(ctx context.Context, app unikernel.App, bundle string, pid int) error {
	if app.Spec.Hooks == nil {
		return nil
	}
	return run(ctx, "poststart", app.Spec.Hooks.Poststart, stateOf(app, bundle, pid, specs.StateRunning))
}

// Stopped runs all poststop hooks, whatever fails, and returns every failure.
func Stopped(ctx context.Context, app unikernel.App, bundle string) error {
	if app.Spec.Hooks == nil {
		return nil
	}
	var errs []error
	for i := range app.Spec.Hooks.Poststop {
		errs = append(errs, run(ctx, "poststop", app.Spec.Hooks.Poststop[i:i+1], stateOf(app, bundle, 0, specs.StateStopped)))
	}
	return errors.Join(errs...)
}

func stateOf(app unikernel.App, bundle string, pid int, status specs.ContainerState) specs.State {
	return specs.State{
		Version: specs.Version, ID: app.ID, Status: status, Pid: pid,
		Bundle: bundle, Annotations: app.Spec.Annotations,
	}
}

func run(ctx context.Context, kind string, hooks []specs.Hook, state specs.State) error {
	for _, hook := range hooks {
		if err := runOne(ctx, hook, state); err != nil {
			return fmt.Errorf("%s hook %s: %w", kind, hook.Path, err)
		}
	}
	return nil
}

func runOne(ctx context.Context, hook specs.Hook, state specs.State) error {
	stdin, err := json.Marshal(state)
	if err != nil {
		return err
	}
	if hook.Timeout != nil {
		if *hook.Timeout <= 0 {
			return fmt.Errorf("timeout of %d seconds, it must be positive: %w", *hook.Timeout, unikernel.ErrInvalid)
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(*hook.Timeout)*time.Second)
		defer cancel()
	}
	var output bytes.Buffer
	cmd := exec.CommandContext(ctx, hook.Path)
	if len(hook.Args) > 0 {
		cmd.Args = hook.Args
	}
	cmd.Env = hook.Env
	if cmd.Env == nil {
		cmd.Env = []string{} // the hook's environment is what the bundle says, not ours
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &output, &output
	// A hook's children end with it, and one that keeps its output open does
	// not keep us.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	text := bytes.TrimSpace(output.Bytes())
	if len(text) > maxErrorOutput {
		text = text[len(text)-maxErrorOutput:]
	}
	if len(text) == 0 {
		return err
	}
	return fmt.Errorf("%w: %s", err, strings.ToValidUTF8(string(text), "?"))
}
