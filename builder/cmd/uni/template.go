package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"containerd-shim-uni/builder/states"
	"containerd-shim-uni/config"
	"containerd-shim-uni/shim/template/order"
	"containerd-shim-uni/unikernel"
)

func templateCommand(load func() (config.Config, error)) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "template",
		Short: "Show, make and remove templates, the states from which machines go on instead of booting",
	}
	group(cmd)
	cmd.AddCommand(templateList(load), templateMake(load), templateRemove(load), templateVerify(load))
	return cmd
}

// openTemplates opens the configured templates.
func openTemplates(cmd *cobra.Command, load func() (config.Config, error)) (*states.Store, config.Config, error) {
	c, err := load()
	if err != nil {
		return nil, c, explain(cmd, err)
	}
	return states.New(c.Storage.DataDir, c.Storage.MinFree), c, nil
}

// templateRow is one template in JSON.
type templateRow struct {
	Shape     string     `json:"shape"`
	About     string     `json:"about,omitempty"`
	Size      int64      `json:"size,omitempty"`
	Allocated int64      `json:"allocated,omitempty"`
	Made      *time.Time `json:"made,omitempty"`
	Used      time.Time  `json:"used"`
	Bad       string     `json:"bad,omitempty"`
}

func templateList(load func() (config.Config, error)) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "ls", Short: "List templates, most recently used first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, _, err := openTemplates(cmd, load)
			if err != nil {
				return err
			}
			list, err := s.List()
			if err != nil {
				return err
			}
			rows := make([]templateRow, len(list))
			for i, t := range list {
				rows[i] = templateRow{Shape: t.Shape, About: t.About, Size: t.Size, Allocated: t.Allocated, Used: t.Used, Bad: t.Bad}
				if !t.Made.IsZero() {
					rows[i].Made = &t.Made
				}
			}
			return printTemplates(cmd.OutOrStdout(), output, rows, time.Now())
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

func printTemplates(w io.Writer, output string, rows []templateRow, now time.Time) error {
	if done, err := printJSON(w, output, rows); done {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SHAPE\tDISK\tUSED\tMACHINE")
	for _, r := range rows {
		about := r.About
		if r.Bad != "" {
			about = "none for an hour: " + r.Bad
		}
		fmt.Fprintf(t, "%.12s\t%s\t%s ago\t%s\n", r.Shape, human(r.Allocated), now.Sub(r.Used).Round(time.Second), about)
	}
	return t.Flush()
}

func templateMake(load func() (config.Config, error)) *cobra.Command {
	var c order.Container
	cmd := &cobra.Command{
		Use:   "make",
		Short: "Make the template of a size now, rather than after the first container of that size",
		Long: "Make the template for containers of a size that share no directory. Without it the first\n" +
			"container of a size boots, and the template is made afterwards.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := load()
			if err != nil {
				return explain(cmd, err)
			}
			if c.MemoryMiB == 0 {
				c.MemoryMiB = cfg.Machine.MemoryMiB
			}
			if c.VCPUs == 0 {
				c.VCPUs = cfg.Machine.VCPUs
			}
			return makeTemplate(cmd.Context(), realHost(), order.Order{Config: cfg, Container: &c, Force: true})
		},
	}
	cmd.Flags().IntVar(&c.MemoryMiB, "memory", 0, "`MiB` of RAM (default machine.memory_mib)")
	cmd.Flags().IntVar(&c.VCPUs, "vcpus", 0, "`NUMBER` of virtual CPUs (default machine.vcpus)")
	cmd.Flags().IntVar(&c.Interfaces, "interfaces", 0, "`NUMBER` of network interfaces")
	cmd.Flags().BoolVar(&c.ReadOnly, "read-only", false, "of containers with a read-only root")
	return cmd
}

// makeTemplate has the shim make a template: it has libvirt.
func makeTemplate(ctx context.Context, h host, q order.Order) error {
	shim, err := shimOf(h)
	if err != nil {
		return err
	}
	if q.Config.Guest != config.GuestLinux {
		return fmt.Errorf("machines of the guest %q boot: %w", q.Config.Guest, unikernel.ErrNotImplemented)
	}
	request, err := json.Marshal(q)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, shim, "template")
	cmd.Stdin = bytes.NewReader(request)
	said, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w", bytes.TrimSpace(said), err)
	}
	return nil
}

// shimOf finds the shim of the same build, beside this program, else the one that
// containerd would find.
func shimOf(h host) (string, error) {
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), shimName)
		if _, err := os.Stat(beside); err == nil {
			return beside, nil
		}
	}
	if path := h.find(shimName); path != "" {
		return path, nil
	}
	return "", fmt.Errorf("no %s where containerd would look: install it", shimName)
}

func templateRemove(load func() (config.Config, error)) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "rm SHAPE...", Short: "Remove templates; machines that went on from them run on",
		Args: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return errors.New("name templates, or use --all")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			s, _, err := openTemplates(cmd, load)
			if err != nil {
				return err
			}
			shapes, err := chosen(s, args)
			for _, shape := range shapes {
				if rerr := s.Remove(shape); !errors.Is(rerr, fs.ErrNotExist) { // it went meanwhile
					err = errors.Join(err, rerr)
				}
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "all of them")
	return cmd
}

func templateVerify(load func() (config.Config, error)) *cobra.Command {
	return &cobra.Command{
		Use: "verify [SHAPE...]", Short: "Read templates to find damage",
		RunE: func(cmd *cobra.Command, args []string) error {
			s, _, err := openTemplates(cmd, load)
			if err != nil {
				return err
			}
			shapes, err := chosen(s, args)
			if err != nil {
				return err
			}
			bad := false
			for _, shape := range shapes {
				if err := s.Verify(shape); err != nil {
					bad = true
					fmt.Fprintf(cmd.OutOrStdout(), "%.12s: %v\n", shape, err)
				} else {
					fmt.Fprintf(cmd.OutOrStdout(), "%.12s: good\n", shape)
				}
			}
			if bad {
				return errSilent
			}
			return nil
		},
	}
}

// chosen are the templates whose shapes begin with the names, each with one; without
// names all.
func chosen(s *states.Store, names []string) ([]string, error) {
	list, err := s.List()
	if err != nil {
		return nil, err
	}
	var shapes []string
	seen := map[string]bool{}
	add := func(shape string) {
		if !seen[shape] {
			shapes, seen[shape] = append(shapes, shape), true
		}
	}
	if len(names) == 0 {
		for _, t := range list {
			add(t.Shape)
		}
	}
	for _, name := range names {
		found := map[string]bool{}
		for _, t := range list {
			if name != "" && len(name) <= len(t.Shape) && t.Shape[:len(name)] == name {
				found[t.Shape] = true
			}
		}
		if len(found) != 1 {
			return shapes, fmt.Errorf("%d templates have a shape that begins with %q: see uni template ls", len(found), name)
		}
		for shape := range found {
			add(shape)
		}
	}
	return shapes, nil
}
