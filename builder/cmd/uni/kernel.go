package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"containerd-shim-uni/builder/kernels"
	"containerd-shim-uni/config"
)

func kernelCommand(load func() (config.Config, error)) *cobra.Command {
	cmd := &cobra.Command{
		Use: "kernel", Short: "Install, show, check and remove kernels of the guest nanos",
		Long: "Install, show, check and remove kernels of the guest \"nanos\", which are not part of this runtime.\n" +
			"They lie below storage.data_dir, one is the default, and containers boot it unless nanos.kernel says\n" +
			"otherwise. Containers that run keep theirs whatever is done here.",
	}
	group(cmd)
	cmd.AddCommand(kernelInstall(load), kernelList(load), kernelUse(load), kernelRemove(load), kernelVerify(load))
	return cmd
}

// openKernels opens the installed kernels of the configuration.
func openKernels(cmd *cobra.Command, load func() (config.Config, error), o kernels.Options) (*kernels.Store, config.Config, error) {
	c, err := load()
	if err != nil {
		return nil, c, explain(cmd, err)
	}
	o.Log = func(format string, args ...any) { fmt.Fprintf(cmd.ErrOrStderr(), "uni: "+format+"\n", args...) }
	return kernels.New(c.Storage.NanosDir(), o), c, nil
}

// withKernels makes a command's function of one that works on the installed
// kernels.
func withKernels(load func() (config.Config, error), run func(*cobra.Command, []string, *kernels.Store, config.Config) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		s, c, err := openKernels(cmd, load, kernels.Options{})
		if err != nil {
			return err
		}
		return run(cmd, args, s, c)
	}
}

// releases is where official ones are; tests have their own.
var releases = kernels.OfficialBase

func kernelInstall(load func() (config.Config, error)) *cobra.Command {
	var r kernels.Request
	cmd := &cobra.Command{
		Use:   "install nanos",
		Short: "Install a release of Nanos",
		Long: `Install a release of Nanos: boot.img, kernel.img and klibs. Without --from it is fetched from

  ` + kernels.OfficialBase + `

where its authors publish releases, and compared with the MD5 they publish beside it. That finds
damage and no forgery: the connection (HTTPS) is what vouches for it, unless --sha256 is given.
$HTTPS_PROXY, $HTTP_PROXY and $NO_PROXY are honoured. What is installed is for x86-64, has been looked
at, and its digests are kept for uni kernel verify.

Without a network, bring the archive by other means and give it to --from. A release can also lie
in a directory, as make release in a checkout of Nanos leaves it.`,
		Args: onlyNanos,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p := &kernels.Progress{}
			s, c, err := openKernels(cmd, load, kernels.Options{Base: releases, Progress: p})
			if err != nil {
				return err
			}
			stop := showProgress(cmd.ErrOrStderr(), p)
			k, err := s.Install(cmd.Context(), r)
			stop()
			if err != nil {
				return err
			}
			return printInstalled(cmd, k, c)
		},
	}
	cmd.Flags().StringVar(&r.From, "from", "", "`DIR|TAR|URL` to install from instead of the official release")
	cmd.Flags().StringVar(&r.Version, "version", "", "`VERSION` to fetch (default the latest), or what to call that of --from")
	cmd.Flags().StringVar(&r.SHA256, "sha256", "", "`DIGEST` that the archive must have")
	cmd.Flags().BoolVar(&r.KeepDefault, "keep-default", false, "do not make it the default, if there is one")
	return cmd
}

// onlyNanos accepts the name of the one guest whose kernels are installed so.
func onlyNanos(_ *cobra.Command, args []string) error {
	if len(args) != 1 || args[0] != config.GuestNanos {
		return fmt.Errorf("want \"nanos\": it is the only guest whose kernel is installed so (make install brings that of linux)")
	}
	return nil
}

func printInstalled(cmd *cobra.Command, k kernels.Installed, c config.Config) error {
	w := cmd.OutOrStdout()
	fmt.Fprintf(w, "nanos %s: %d files, %s, in %s\n", k.Version, len(k.Files), human(k.Size()), k.Dir)
	if a := k.Archive; a != nil {
		fmt.Fprintf(w, "archive sha256:%s, compared with %s\n", a.SHA256, cmp.Or(a.Checked, "no digest"))
	}
	return tellDefault(cmd, k, c)
}

// tellDefault says what containers boot from now on.
func tellDefault(cmd *cobra.Command, k kernels.Installed, c config.Config) error {
	if c.Nanos.Kernel != c.Storage.CurrentNanos() {
		fmt.Fprintf(cmd.ErrOrStderr(), "uni: containers boot %s, as nanos.kernel in the configuration says\n", c.Nanos.Kernel)
		return nil
	}
	text := "containers boot it from now on"
	if !k.Default {
		text = "it is not the default: uni kernel use " + k.Version
	}
	_, err := fmt.Fprintln(cmd.OutOrStdout(), text)
	return err
}

func kernelUse(load func() (config.Config, error)) *cobra.Command {
	return &cobra.Command{
		Use: "use VERSION", Short: "Make an installed version the default", Args: cobra.ExactArgs(1),
		RunE: withKernels(load, func(_ *cobra.Command, args []string, s *kernels.Store, _ config.Config) error { return s.Use(args[0]) }),
	}
}

func kernelRemove(load func() (config.Config, error)) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "rm VERSION", Short: "Remove an installed version",
		Long: "Remove an installed version. The default one is kept while there are others: choose another with\n" +
			"uni kernel use first. Containers that run do not mind.",
		Args: cobra.ExactArgs(1),
		RunE: withKernels(load, func(_ *cobra.Command, args []string, s *kernels.Store, _ config.Config) error {
			return s.Remove(args[0], force)
		}),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "remove the default too; there is none then")
	return cmd
}

func kernelVerify(load func() (config.Config, error)) *cobra.Command {
	return &cobra.Command{
		Use: "verify [VERSION]", Short: "Compare installed files with the digests they were installed with",
		Long: "Compare the files of a version, or of all, with the digests they were installed with. The status is 1\n" +
			"if a file is missing, changed or new.",
		Args: cobra.MaximumNArgs(1),
		RunE: withKernels(load, func(cmd *cobra.Command, args []string, s *kernels.Store, _ config.Config) error {
			if len(args) == 0 {
				all, err := s.List()
				if err != nil {
					return err
				}
				if len(all) == 0 {
					_, err := fmt.Fprintln(cmd.OutOrStdout(), "nothing is installed")
					return err
				}
				for _, k := range all {
					args = append(args, k.Version)
				}
			}
			return verifyKernels(cmd, s, args)
		}),
	}
}

func verifyKernels(cmd *cobra.Command, s *kernels.Store, versions []string) (err error) {
	for _, version := range versions {
		faults, verr := s.Verify(cmd.Context(), version)
		if verr != nil {
			return verr
		}
		for _, f := range faults {
			err = errSilent
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %s %s\n", version, f.File, f.Text)
		}
		if len(faults) == 0 {
			fmt.Fprintf(cmd.OutOrStdout(), "%s: ok\n", version)
		}
	}
	return err
}

// kernelRow is one kernel in JSON.
type kernelRow struct {
	Guest   string `json:"guest"`
	Version string `json:"version"`
	// Default says that containers of that guest boot it.
	Default   bool       `json:"default"`
	Size      int64      `json:"size"`
	Installed *time.Time `json:"installed,omitempty"`
	// Source is where it came from.
	Source string `json:"source,omitempty"`
	// Path is a directory, or the file of the linux guest.
	Path  string `json:"path"`
	Error string `json:"error,omitempty"`
}

func kernelList(load func() (config.Config, error)) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "ls", Short: "List kernels, newest first, and that of the linux guest", Args: cobra.NoArgs,
		RunE: withKernels(load, func(cmd *cobra.Command, _ []string, s *kernels.Store, c config.Config) error {
			list, err := s.List()
			if err != nil {
				return err
			}
			return printKernels(cmd.OutOrStdout(), output, kernelRows(list, c))
		}),
	}
	outputFlag(cmd, &output)
	return cmd
}

// kernelRows describes what is installed and what the configuration names beside.
func kernelRows(list []kernels.Installed, c config.Config) []kernelRow {
	rows := []kernelRow{}
	known := c.Nanos.Kernel == c.Storage.CurrentNanos()
	for _, k := range list {
		row := kernelRow{Guest: config.GuestNanos, Version: k.Version, Size: k.Size(), Source: k.Source, Path: k.Dir}
		row.Default = c.Nanos.Kernel == k.Dir || k.Default && c.Nanos.Kernel == c.Storage.CurrentNanos()
		known = known || row.Default
		if k.Err != nil {
			row.Error = k.Err.Error()
		} else {
			row.Installed = &k.Manifest.Installed
		}
		rows = append(rows, row)
	}
	if !known {
		row := kernelRow{Guest: config.GuestNanos, Default: true, Path: c.Nanos.Kernel}
		if _, err := kernels.Examine(c.Nanos.Kernel); err != nil {
			row.Error = err.Error()
		}
		rows = append(rows, row)
	}
	if row, found := linuxRow(c.Linux.Kernel); found {
		rows = append(rows, row)
	}
	return rows
}

// linuxRow describes the kernel of the linux guest, which make install brings.
func linuxRow(path string) (row kernelRow, found bool) {
	f, err := os.Open(path)
	if err != nil {
		return row, false
	}
	defer f.Close()
	row = kernelRow{Guest: config.GuestLinux, Default: true, Path: path}
	st, err := f.Stat()
	if err == nil {
		row.Size = st.Size()
		row.Version, err = kernels.LinuxVersion(f)
	}
	if err != nil {
		row.Error = err.Error()
	}
	return row, true
}

func printKernels(w io.Writer, output string, rows []kernelRow) error {
	if done, err := printJSON(w, output, rows); done {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "GUEST\tVERSION\tDEFAULT\tSIZE\tINSTALLED\tSOURCE")
	for _, r := range rows {
		mark, installed := "", "-"
		if r.Default {
			mark = "*"
		}
		if r.Installed != nil {
			installed = r.Installed.Format(time.DateTime)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", r.Guest, cmp.Or(r.Version, "unknown"), mark, human(r.Size), installed, cmp.Or(r.Error, r.Source, r.Path))
	}
	return t.Flush()
}
