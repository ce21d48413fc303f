package frontend

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
)

// flags is the command line.
type flags struct {
	namespace, id, bundle string
	// address is containerd's gRPC address, publishBinary its own binary.
	address, publishBinary string
	// socket is where to serve. With ready somebody waits for it, see readyFD.
	socket string
	ready  bool
	// group names the containers that share the shim.
	group                string
	debug, version, info bool
	// action is "start", "delete", "warm", "template" or "".
	action string
}

func parse(args []string) (flags, error) {
	var f flags
	set := flag.NewFlagSet(args[0], flag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.StringVar(&f.namespace, "namespace", "", "namespace of the container")
	set.StringVar(&f.id, "id", "", "id of the container")
	set.StringVar(&f.bundle, "bundle", "", "directory of the container, if not the current one")
	set.StringVar(&f.address, "address", "", "containerd's gRPC address")
	set.StringVar(&f.publishBinary, "publish-binary", "", "containerd's binary, which publishes events")
	set.BoolVar(&f.ready, "ready", false, "tell on descriptor 3 when the socket is there")
	set.StringVar(&f.socket, "socket", "", "path of the socket to serve")
	set.String("debug-socket", "", "ignored: there is no such socket")
	set.StringVar(&f.group, "group", "", "name of the containers that share the shim")
	set.BoolVar(&f.debug, "debug", false, "log more")
	set.BoolVar(&f.version, "v", false, "print the version")
	set.BoolVar(&f.version, "version", false, "print the version")
	set.BoolVar(&f.info, "info", false, "describe the runtime")
	if err := set.Parse(args[1:]); err != nil {
		return f, err
	}
	f.action = set.Arg(0)
	if f.version || f.info || f.action == "warm" || f.action == "template" {
		return f, nil
	}
	switch {
	case f.action != "" && f.action != "start" && f.action != "delete":
		return f, fmt.Errorf("unknown action %q: containerd calls start and delete", f.action)
	case f.namespace == "":
		return f, errors.New("-namespace is missing; containerd starts this program, it is not meant to be run by hand")
	case f.id == "":
		return f, errors.New("-id is missing")
	}
	if f.bundle == "" {
		dir, err := os.Getwd()
		if err != nil {
			return f, err
		}
		f.bundle = dir
	}
	if f.group == "" {
		f.group = f.id
	}
	return f, nil
}
