package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"containerd-shim-uni/shim/status"
)

// psOptions is what uni ps was asked for.
type psOptions struct {
	all       bool
	namespace string
	output    string
	watch     time.Duration
}

func psCommand(load loadConfig) *cobra.Command {
	var o psOptions
	cmd := &cobra.Command{
		Use:   "ps [CONTAINER...]",
		Short: "List the containers that run in machines, and what they use",
		Long: "List the containers that run in machines, of all namespaces, and what they use. Their shims are asked, and by\n" +
			"these their guests: containerd is not needed. CONTAINER is an id or its beginning, of a container or a pod.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.watch != 0 && (o.watch < 0 || o.output != "text") {
				return errors.New("--watch wants a positive time, and no other --output than text")
			}
			list := func() ([]status.Sandbox, error) { return sandboxes(cmd, load, o, args) }
			if o.watch == 0 {
				return psOnce(cmd.OutOrStdout(), o, list)
			}
			return psWatch(cmd.Context(), cmd.OutOrStdout(), o, list)
		},
	}
	cmd.Flags().BoolVarP(&o.all, "all", "a", false, "also list containers that have ended and are not deleted")
	cmd.Flags().StringVarP(&o.namespace, "namespace", "n", "", "list those of containerd's `NAMESPACE` only")
	cmd.Flags().DurationVarP(&o.watch, "watch", "w", 0, "list again every `TIME`, such as 2s")
	cmd.Flags().Lookup("watch").NoOptDefVal = "2s"
	outputFlag(cmd, &o.output)
	return cmd
}

// sandboxes asks for those that were asked for.
func sandboxes(cmd *cobra.Command, load loadConfig, o psOptions, ids []string) ([]status.Sandbox, error) {
	c, err := load()
	if err != nil {
		return nil, explain(cmd, err)
	}
	found, err := status.List(cmd.Context(), c.Storage.StateDir)
	if err != nil {
		return nil, err
	}
	return pick(found, o, ids)
}

// pick leaves out what was not asked for. Each id must be found.
func pick(found []status.Sandbox, o psOptions, ids []string) (list []status.Sandbox, err error) {
	hits := map[string]bool{}
	for _, s := range found {
		m := &s.Machine
		if s.Err != nil {
			if len(ids) == 0 && o.namespace == "" {
				list = append(list, s)
			}
			continue
		}
		if o.namespace != "" && m.Namespace != o.namespace {
			continue
		}
		m.Containers = slices.DeleteFunc(slices.Clone(m.Containers), func(c status.Container) bool {
			return !wanted(ids, hits, c.ID, m.ID) || c.Exit != nil && !o.all
		})
		ended := m.Kind == status.KindContainer && m.End != ""
		if len(m.Containers) > 0 || m.Kind == status.KindPod && wanted(ids, hits, m.ID) && (!ended || o.all) {
			list = append(list, s)
		}
	}
	for _, id := range ids {
		if !hits[id] {
			err = errors.Join(err, fmt.Errorf("no container or pod of this runtime has an id that begins with %q", id))
		}
	}
	return list, err
}

// wanted says whether one of the names is asked for, and notes by which id.
func wanted(ids []string, hits map[string]bool, names ...string) bool {
	found := len(ids) == 0
	for _, id := range ids {
		if slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, id) }) {
			hits[id], found = true, true
		}
	}
	return found
}

func psOnce(w io.Writer, o psOptions, list func() ([]status.Sandbox, error)) error {
	found, err := list()
	if err != nil {
		return err
	}
	if done, err := printJSON(w, o.output, rowsOf(found)); done {
		return err
	}
	return psTable(w, found, time.Now())
}

// clearScreen homes the cursor of a terminal and clears it (ECMA-48).
const clearScreen = "\x1b[H\x1b[2J"

func psWatch(ctx context.Context, w io.Writer, o psOptions, list func() ([]status.Sandbox, error)) error {
	ticker := time.NewTicker(o.watch)
	defer ticker.Stop()
	for {
		found, err := list()
		if err != nil {
			return err
		}
		fmt.Fprint(w, clearScreen)
		if err := psTable(w, found, time.Now()); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// failedSandbox is how a sandbox without an answer is printed as JSON.
type failedSandbox struct {
	Dir   string `json:"dir"`
	Error string `json:"error"`
}

// rowsOf is what is printed as JSON.
func rowsOf(found []status.Sandbox) []any {
	rows := make([]any, len(found))
	for i, s := range found {
		if rows[i] = s.Machine; s.Err != nil {
			rows[i] = failedSandbox{s.Dir, s.Err.Error()}
		}
	}
	return rows
}

// psTable prints a line for each container, for each pod without one, and for each
// sandbox that nobody tells about.
func psTable(w io.Writer, found []status.Sandbox, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAMESPACE\tCONTAINER\tPOD\tGUEST\tSTATE\tAGE\tMEMORY\tMACHINE\tHOST\tCPU\tPIDS\tWRITTEN\tSTART")
	var failed []status.Sandbox
	for _, s := range found {
		if s.Err != nil {
			failed = append(failed, s)
			continue
		}
		m := s.Machine
		pod := "-"
		if m.Kind == status.KindPod {
			pod = short(m.ID)
		}
		if len(m.Containers) == 0 {
			m.Containers = []status.Container{{ID: "-", State: m.State, Created: m.Created}}
		}
		for _, c := range m.Containers {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", m.Namespace, short(c.ID), pod, m.Guest, stateOf(c),
				age(now.Sub(c.Created)), memoryOf(c), human(int64(m.MemoryMiB)<<20), human(int64(m.Resident)), cpuOf(c), pidsOf(c),
				human(c.Written), startOf(c))
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, s := range failed {
		fmt.Fprintf(w, "%s: %v; deleting its container cleans up\n", s.Dir, s.Err)
	}
	return nil
}

// short is an id as people write it.
func short(id string) string {
	const most = 20
	if len(id) > most {
		return id[:12]
	}
	return id
}

func stateOf(c status.Container) string {
	if c.Exit != nil {
		return fmt.Sprintf("%s (%d)", c.State, c.Exit.Status)
	}
	return c.State
}

func memoryOf(c status.Container) string {
	if c.Used == nil {
		return "-"
	}
	return human(int64(c.Used.Memory))
}

func cpuOf(c status.Container) string {
	if c.Used == nil {
		return "-"
	}
	return (time.Duration(c.Used.CPU) * time.Microsecond).Round(10 * time.Millisecond).String()
}

func pidsOf(c status.Container) string {
	if c.Used == nil {
		return "-"
	}
	return fmt.Sprint(c.Used.Pids)
}

// startOf is the time from the request to the first process.
func startOf(c status.Container) string {
	if c.Started.IsZero() {
		return "-"
	}
	return c.Started.Sub(c.Created).Round(time.Millisecond).String()
}

// age is a duration in the two units that matter.
func age(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < 0:
		return "0s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	case d < day:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	default:
		return fmt.Sprintf("%dd%dh", d/day, d%day/time.Hour)
	}
}
