package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"containerd-shim-uni/builder"
	"containerd-shim-uni/config"
)

func cacheCommand(load func() (config.Config, error)) *cobra.Command {
	cmd := &cobra.Command{Use: "cache", Short: "Show and empty the cache of root disks"}
	group(cmd)
	cmd.AddCommand(cacheList(load), cacheUsage(load), cachePrune(load))
	return cmd
}

// openStore opens the configured cache.
func openStore(cmd *cobra.Command, load func() (config.Config, error)) (*builder.Store, config.Config, error) {
	c, err := load()
	if err != nil {
		return nil, c, explain(cmd, err)
	}
	s, err := builder.Open(c.Storage.DataDir, builder.Options{
		MaxSize: c.Cache.MaxSize,
		Log:     func(format string, args ...any) { fmt.Fprintf(cmd.ErrOrStderr(), "uni: "+format+"\n", args...) },
	})
	return s, c, err
}

// cached lists what the configured cache holds.
func cached(cmd *cobra.Command, load func() (config.Config, error)) ([]builder.Entry, config.Config, error) {
	s, c, err := openStore(cmd, load)
	if err != nil {
		return nil, c, err
	}
	entries, err := s.Entries()
	return entries, c, err
}

// cacheRow is one cached file in JSON.
type cacheRow struct {
	Kind      string    `json:"kind"`
	Digest    string    `json:"digest"`
	Size      int64     `json:"size"`
	Allocated int64     `json:"allocated"`
	Users     int       `json:"users"`
	Used      time.Time `json:"used"`
}

func cacheList(load func() (config.Config, error)) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "ls", Short: "List cached files, most recently used first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			entries, _, err := cached(cmd, load)
			if err != nil {
				return err
			}
			rows := make([]cacheRow, len(entries))
			for i, e := range entries {
				rows[i] = cacheRow{e.Kind, e.Digest, e.Size, e.Allocated, e.Users, e.Used}
			}
			return printRows(cmd.OutOrStdout(), output, rows, time.Now())
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

func printRows(w io.Writer, output string, rows []cacheRow, now time.Time) error {
	if done, err := printJSON(w, output, rows); done {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "KIND\tDIGEST\tDISK\tSIZE\tCONTAINERS\tUSED")
	for _, r := range rows {
		fmt.Fprintf(t, "%s\t%.12s\t%s\t%s\t%d\t%s ago\n", r.Kind, r.Digest, human(r.Allocated), human(r.Size), r.Users,
			now.Sub(r.Used).Round(time.Second))
	}
	return t.Flush()
}

func cacheUsage(load func() (config.Config, error)) *cobra.Command {
	return &cobra.Command{
		Use: "du", Short: "Say how much the cache occupies", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			entries, c, err := cached(cmd, load)
			if err != nil {
				return err
			}
			var total, inUse int64
			for _, e := range entries {
				total += e.Allocated
				if e.Users > 0 {
					inUse += e.Allocated
				}
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s of %s in %d files; %s of it in use by containers\n",
				human(total), human(c.Cache.MaxSize), len(entries), human(inUse))
			return err
		},
	}
}

func cachePrune(load func() (config.Config, error)) *cobra.Command {
	var keep string
	cmd := &cobra.Command{
		Use: "prune", Short: "Remove what no container uses, least recently used first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			bytes, err := config.ParseSize(keep)
			if err != nil {
				return fmt.Errorf("--keep: %w", err)
			}
			s, _, err := openStore(cmd, load)
			if err != nil {
				return err
			}
			freed, err := s.Prune(bytes)
			fmt.Fprintf(cmd.OutOrStdout(), "removed %d files, %s\n", freed.Files, human(freed.Bytes))
			return err
		},
	}
	cmd.Flags().StringVar(&keep, "keep", "0B", "stop when the cache occupies at most this `SIZE`")
	return cmd
}

// outputFlag adds -o.
func outputFlag(cmd *cobra.Command, output *string) {
	cmd.Flags().StringVarP(output, "output", "o", "text", "`FORMAT`: text or json")
}

// printJSON prints v if that is the output asked for, and reports whether
// nothing is left to do.
func printJSON(w io.Writer, output string, v any) (done bool, err error) {
	switch output {
	case "text":
		return false, nil
	case "json":
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return true, e.Encode(v)
	default:
		return true, fmt.Errorf("--output %q is not one of: text, json", output)
	}
}

// human prints bytes with one decimal, for reading rather than for config.
func human(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	f, i := float64(n), 0
	for f >= 1024 && i < len(units)-1 {
		f /= 1024
		i++
	}
	if i == 0 {
		return fmt.Sprintf("%dB", n)
	}
	return fmt.Sprintf("%.1f%s", f, units[i])
}
