package nanos

import (
	"fmt"
	"strings"

	"containerd-shim-uni/unikernel"
)

// Configure returns what the layer over the boot disk must hold. Errors are
// those of Plan.
func (g *Guest) Configure(app unikernel.App) (unikernel.BootConfig, error) {
	p := app.Spec.Process
	c := unikernel.BootConfig{Args: p.Args, Env: p.Env, Cwd: p.Cwd}
	if c.Cwd == "" {
		c.Cwd = "/"
	}
	for _, s := range append(append([]string(nil), p.Args...), p.Env...) {
		if strings.Contains(s, "\x00") {
			return c, fmt.Errorf("%w: %q holds a zero byte", unikernel.ErrInvalid, s)
		}
	}
	c.Options = append(c.Options, exitOptions...)
	if app.Spec.Root != nil && app.Spec.Root.Readonly {
		c.Options = append(c.Options, unikernel.Option{Name: "readonly_rootfs", Value: "t"})
	}
	if err := g.mounts(app, &c); err != nil {
		return c, err
	}
	options, err := network(app.Network)
	c.Options = append(c.Options, options...)
	c.Without = unlearnt(app.Network)
	return c, err
}
