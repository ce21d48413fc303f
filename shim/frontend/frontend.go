package frontend

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"containerd-shim-uni/config"
	"containerd-shim-uni/shim/task"

	"github.com/containerd/containerd/api/types"
	"google.golang.org/protobuf/proto"
)

// Runtime is what a front end is in front of.
type Runtime struct {
	// Name is the runtime's, as users write it: "io.containerd.uni.v1".
	Name string
	// Version and Revision are of this build.
	Version, Revision string
	// Server is the program, in the directory of this one, that has what this one has
	// not: Host, Warm and whatever else needs the parts. Empty for one that has them.
	Server string
	// Host opens the parts of the runtime, for the shim of one group of
	// containers.
	Host func(namespace, group string) Host
	// Warm fills the caches that all containers share.
	Warm func(context.Context, config.Config) error
	// Template makes a template, as a request asks that is read.
	Template func(ctx context.Context, request io.Reader) error
}

// Host is the parts of the runtime, and what they hold.
type Host interface {
	task.Host
	// CleanUp ends a machine by its name after the shim that ran it has died,
	// and removes what that left of itself. Nothing need be there.
	CleanUp(ctx context.Context, cfg config.Config, name string) error
	// Close lets go of what the parts hold, once no machine of the group is left.
	Close() error
}

// Main runs what the command line asks for and returns the exit status.
func (r Runtime) Main(args []string) int {
	if err := r.run(context.Background(), args, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %s\n", filepath.Base(args[0]), err)
		return 1
	}
	return 0
}

func (r Runtime) run(ctx context.Context, args []string, stdin io.Reader, stdout io.Writer) error {
	f, err := parse(args)
	if err != nil {
		return err
	}
	switch {
	case f.version:
		_, err := fmt.Fprintf(stdout, "%s:\n  Version:  %s\n  Revision: %s\n  Go version: %s\n",
			filepath.Base(args[0]), r.Version, r.Revision, runtime.Version())
		return err
	case f.info:
		return r.info(stdout)
	}
	switch {
	case f.action == "start":
		return r.start(f, stdin, stdout)
	case f.action == "delete" && nothingLeft(f):
		return sayDeleted(stdout)
	case r.Server != "":
		return r.become(args)
	}
	switch f.action {
	case "warm":
		cfg, err := config.Load("")
		if err != nil {
			return err
		}
		return r.Warm(ctx, cfg)
	case "template":
		return r.Template(ctx, stdin)
	}
	tune()
	switch f.action {
	case "delete":
		return r.delete(ctx, f, stdout)
	default:
		return r.serve(ctx, f)
	}
}

// info answers "what runtime is this". Options on standard input change nothing.
func (r Runtime) info(stdout io.Writer) error {
	features, err := runtimeFeatures()
	if err != nil {
		return err
	}
	data, err := proto.Marshal(&types.RuntimeInfo{
		Name:     r.Name,
		Version:  &types.RuntimeVersion{Version: r.Version, Revision: r.Revision},
		Features: features,
	})
	if err != nil {
		return err
	}
	_, err = stdout.Write(data)
	return err
}
