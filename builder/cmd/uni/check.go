package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"containerd-shim-uni/config"
)

// Levels of a finding. Only FAIL means that containers will not start.
const (
	levelOK   = "OK"
	levelWarn = "WARN"
	levelFail = "FAIL"
)

// finding is the outcome of one check.
type finding struct {
	Check  string `json:"check"`
	Level  string `json:"level"`
	Detail string `json:"detail"`
	// Action is what to do about it; empty when all is well.
	Action string `json:"action,omitempty"`
}

func ok(format string, args ...any) finding {
	return finding{Level: levelOK, Detail: fmt.Sprintf(format, args...)}
}

func warn(action, format string, args ...any) finding {
	return finding{Level: levelWarn, Detail: fmt.Sprintf(format, args...), Action: action}
}

func fail(action, format string, args ...any) finding {
	return finding{Level: levelFail, Detail: fmt.Sprintf(format, args...), Action: action}
}

// checks is what can be wrong with a host, in the order of a boot.
var checks = []struct {
	name string
	run  func(context.Context, host, config.Config) finding
}{
	{"platform", checkPlatform},
	{"accel", checkAccel},
	{"qemu", checkQEMU},
	{"firmware", checkFirmware},
	{"libvirt", checkLibvirt},
	{"isolation", checkIsolation},
	{"labels", checkLabels},
	{"shim", checkShim},
	{"containerd", checkContainerd},
	{"pods", checkPods},
	{"driver", checkCgroupDriver},
	{"kernel", checkKernel},
	{"initrd", checkInitrd},
	{"source", checkSource},
	{"nanos", checkNanos},
	{"mke2fs", checkMke2fs},
	{"virtiofsd", checkVirtiofsd},
	{"network", checkNetwork},
	{"cgroup", checkCgroup},
	{"host", checkHostKernel},
	{"inotify", checkInotify},
	{"memory", checkMemory},
	{"storage", checkStorage},
	{"abandoned", checkAbandoned},
	{"templates", checkTemplates},
}

func checkCommand(path *string) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Say whether this host can run the runtime",
		Long: "Say whether this host can run the runtime, a line for each thing that it needs.\n" +
			"The status is 1 if anything failed; a warning means that something is slower or missing.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			findings := examine(cmd.Context(), realHost(), *path)
			return report(cmd.OutOrStdout(), output, findings)
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

// examine runs all checks. With a wrong configuration file they go on with the
// defaults, so that one problem does not hide the others.
func examine(ctx context.Context, h host, path string) []finding {
	c, err := config.Load(path)
	first := ok("%s", config.Path(path))
	if err != nil {
		first = fail("correct the file; uni config default prints one that is right", "%v", err)
		c = config.Default()
	}
	first.Check = "config"
	findings := []finding{first}
	for _, check := range checks {
		f := check.run(ctx, h, c)
		f.Check = check.name
		findings = append(findings, f)
	}
	return findings
}

// report prints findings and is an error if one of them is a failure.
func report(w io.Writer, output string, findings []finding) error {
	if err := printFindings(w, output, findings); err != nil {
		return err
	}
	if slices.ContainsFunc(findings, func(f finding) bool { return f.Level == levelFail }) {
		return errSilent
	}
	return nil
}

func printFindings(w io.Writer, output string, findings []finding) error {
	if done, err := printJSON(w, output, findings); done {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range findings {
		text := f.Detail
		if f.Action != "" {
			text += " → " + f.Action
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", f.Level, f.Check, text)
	}
	return t.Flush()
}
