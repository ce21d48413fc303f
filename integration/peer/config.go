package peer

import (
	"bytes"
	"fmt"
	"strings"
)

// disabled are plugins no test needs: the CRI service and whatever writes
// outside of the peer's directory.
var disabled = []string{
	"io.containerd.grpc.v1.cri",
	"io.containerd.cri.v1.images",
	"io.containerd.cri.v1.runtime",
	"io.containerd.podsandbox.controller.v1.cri",
	"io.containerd.internal.v1.opt",
	"io.containerd.nri.v1.nri",
	"io.containerd.snapshotter.v1.aufs",
	"io.containerd.snapshotter.v1.blockfile",
	"io.containerd.snapshotter.v1.btrfs",
	"io.containerd.snapshotter.v1.devmapper",
	"io.containerd.snapshotter.v1.erofs",
	"io.containerd.snapshotter.v1.zfs",
	"io.containerd.tracing.processor.v1.otlp",
	"io.containerd.internal.v1.tracing",
}

// configuration is containerd's config.toml. Format version 2 is read by every
// version from 1.3 on.
func configuration(o Options) []byte {
	var b bytes.Buffer
	quoted := make([]string, len(disabled))
	for i, d := range disabled {
		quoted[i] = fmt.Sprintf("%q", d)
	}
	fmt.Fprintf(&b, "version = 2\nroot = %q\nstate = %q\n", o.Dir+"/root", o.Dir+"/state")
	fmt.Fprintf(&b, "disabled_plugins = [\n  %s,\n]\n", strings.Join(quoted, ",\n  "))
	fmt.Fprintf(&b, "[grpc]\n  address = %q\n", o.Dir+"/ctd.sock")
	fmt.Fprintf(&b, "[debug]\n  level = \"debug\"\n")
	return b.Bytes()
}
