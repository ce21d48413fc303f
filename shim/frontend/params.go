package frontend

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"containerd-shim-uni/unikernel"

	"github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// defaultSocketDir is where containerd's own shims put their sockets
// (containerd's defaults.DefaultStateDir and "s").
const defaultSocketDir = "/run/containerd/s"

// maxStdin bounds what start reads.
const maxStdin = 10 << 20

// params is what containerd tells a shim at its start.
type params struct {
	options      *anypb.Any // runtime options, may be nil
	ttrpcAddress string
	address      string
	binary       string
	socketDir    string
	debug        bool
	// bootstrap says that they came as BootstrapParams: from containerd 2.3 on.
	bootstrap bool
}

// readParams reads standard input of start.
func readParams(f flags, stdin io.Reader) (params, error) {
	p := params{
		ttrpcAddress: os.Getenv(envTTRPCAddress), address: f.address, binary: f.publishBinary,
		socketDir: defaultSocketDir, debug: f.debug,
	}
	input, err := io.ReadAll(io.LimitReader(stdin, maxStdin+1))
	switch {
	case err != nil:
		return p, fmt.Errorf("read standard input: %w", err)
	case len(input) > maxStdin:
		return p, fmt.Errorf("standard input is longer than %d bytes", maxStdin)
	case len(input) == 0:
		return p, nil
	}
	if boot, ok := parseBootstrap(f, input); ok {
		p = p.with(boot)
		p.bootstrap = true
		return p, nil
	}
	var options anypb.Any
	if err := proto.Unmarshal(input, &options); err != nil {
		return p, fmt.Errorf("standard input is neither BootstrapParams for this container nor runtime options: %w", err)
	}
	p.options = &options
	return p, nil
}

// parseBootstrap reads BootstrapParams. Options alone may happen to decode as
// such; they then do not name this container.
func parseBootstrap(f flags, input []byte) (*bootstrap.BootstrapParams, bool) {
	var boot bootstrap.BootstrapParams
	if err := proto.Unmarshal(input, &boot); err != nil {
		return nil, false
	}
	return &boot, boot.InstanceID == f.id && boot.Namespace == f.namespace
}

func (p params) with(boot *bootstrap.BootstrapParams) params {
	// containerd has one place for options; the first extension is theirs, and
	// whoever reads them ignores types it does not know.
	for _, e := range boot.Extensions {
		if e.GetValue() != nil {
			p.options = e.Value
			break
		}
	}
	if boot.ContainerdTtrpcAddress != "" {
		p.ttrpcAddress = boot.ContainerdTtrpcAddress
	}
	if boot.ContainerdGrpcAddress != "" {
		p.address = boot.ContainerdGrpcAddress
	}
	if boot.ContainerdBinary != "" {
		p.binary = boot.ContainerdBinary
	}
	if dir := boot.GetSocketDir(); dir != "" {
		p.socketDir = dir
	}
	p.debug = p.debug || boot.LogLevel <= bootstrap.LogLevel_LOG_LEVEL_DEBUG
	return p
}

// groupAnnotations name the containers that share a shim: the first that a
// container has decides. Kubernetes' is the pod's sandbox.
var groupAnnotations = []string{"io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"}

// groupOf returns the group of the container in a bundle: its own id if it has
// no other, or if nothing is said of it yet, as of a pod that is to be made by the
// sandbox API.
func groupOf(bundle, id string) (string, error) {
	path := filepath.Join(bundle, "config.json")
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return id, nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	var spec struct {
		Annotations map[string]string `json:"annotations"`
	}
	if err := json.NewDecoder(f).Decode(&spec); err != nil {
		return "", fmt.Errorf("%s: %w: %w", path, unikernel.ErrInvalid, err)
	}
	for _, name := range groupAnnotations {
		if group := spec.Annotations[name]; group != "" {
			return group, nil
		}
	}
	return id, nil
}
