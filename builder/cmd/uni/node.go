package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"containerd-shim-uni/deploy/node"
	"containerd-shim-uni/unikernel/thread"
)

// nodeCommand installs on a node of Kubernetes.
func nodeCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "node", Short: "Install the runtime on a node of Kubernetes, or remove it"}
	group(cmd)
	n, restart, force, check := node.Node{Proc: "/proc"}, true, false, true
	flags := cmd.PersistentFlags()
	flags.StringVar(&n.Root, "root", "", "`DIRECTORY` at which the node's root is mounted")
	flags.StringVar(&n.Source, "source", "/opt/uni", "`DIRECTORY` with bin and lib/uni/linux")
	flags.StringVar(&n.Prefix, "prefix", "/usr/local", "`DIRECTORY` on the node that gets them")
	flags.BoolVar(&restart, "restart", true, "restart containerd if its configuration has changed; pods go on")

	install := &cobra.Command{
		Use: "install", Short: "Put what is missing on the node", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			changes, err := n.Install()
			if err := tellChanges(cmd, changes, err, "installed", restart); err != nil || !check {
				return err
			}
			shim := filepath.Join(n.Prefix, "bin", node.Shim)
			if err := onNode(cmd, shim, "warm"); err != nil {
				fmt.Fprintf(cmd.ErrOrStderr(), "%s warm: %v\n", shim, err) // the check says why
			}
			if err := onNode(cmd, filepath.Join(n.Prefix, "bin/uni"), "check"); err != nil {
				return fmt.Errorf("the node cannot run the runtime, see above: %w", err)
			}
			return nil
		},
	}
	install.Flags().BoolVar(&check, "check", true, "then run uni check on the node, and fail if that does")
	uninstall := &cobra.Command{
		Use: "uninstall", Short: "Take it away, but for /etc/uni and /var/lib/uni", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			changes, err := n.Uninstall(force)
			return tellChanges(cmd, changes, err, "removed or changed", restart)
		},
	}
	uninstall.Flags().BoolVar(&force, "force", false, "also while pods run, which then cannot be removed properly")
	status := &cobra.Command{
		Use: "status", Short: "Say what install would change; the status is 1 if there is something", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			missing, err := n.Missing()
			if err == nil && len(missing) > 0 {
				err = fmt.Errorf("not installed, or of another version: %s", strings.Join(missing, " "))
			}
			return err
		},
	}
	wait := &cobra.Command{
		Use: "wait", Short: "Do nothing until told to end, for a DaemonSet's container", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { <-cmd.Context().Done(); return nil },
	}
	cmd.AddCommand(install, uninstall, status, wait)
	return cmd
}

// tellChanges says what was done, and restarts what has to be, or says what.
func tellChanges(cmd *cobra.Command, c node.Changes, err error, did string, restart bool) error {
	out := cmd.OutOrStdout()
	for _, f := range c.Files {
		fmt.Fprintln(out, did, f)
	}
	if err != nil {
		return err
	}
	if len(c.Files) == 0 {
		fmt.Fprintln(out, "nothing to do")
	}
	if len(c.Restart) == 0 {
		return nil
	}
	if !restart {
		fmt.Fprintf(out, "restart %s: it reads its configuration when it starts\n", strings.Join(c.Restart, " or "))
		return nil
	}
	// One that does not run is not started.
	if err := onNode(cmd, "systemctl", append([]string{"try-restart"}, c.Restart...)...); err != nil {
		return fmt.Errorf("containerd's configuration has changed, and it could not be restarted (restart %s, or whatever runs containerd): %w",
			strings.Join(c.Restart, " or "), err)
	}
	fmt.Fprintln(out, "restarted", strings.Join(c.Restart, " or "))
	return nil
}

// onNode runs a program where the node's first process sees it: with the node's
// libraries, and its systemd.
func onNode(cmd *cobra.Command, program string, args ...string) error {
	return inMountsOf(1, func() error { return runThere(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), program, args) })
}

func runThere(ctx context.Context, stdout, stderr io.Writer, program string, args []string) error {
	c := exec.CommandContext(ctx, program, args...)
	c.Stdout, c.Stderr, c.Dir = stdout, stderr, "/"
	c.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	if filepath.Base(program) == program { // looked up there, not here
		c.Err = nil
		for dir := range strings.SplitSeq(strings.TrimPrefix(c.Env[0], "PATH="), ":") {
			if _, err := os.Stat(filepath.Join(dir, program)); err == nil {
				c.Path = filepath.Join(dir, program)
				return c.Run()
			}
		}
		return fmt.Errorf("%s: %w", program, exec.ErrNotFound)
	}
	return c.Run()
}

// inMountsOf runs f in the mount namespace of a process.
func inMountsOf(pid int, f func() error) error {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err != nil {
		return err
	}
	defer ns.Close()
	if own, err := os.Readlink("/proc/self/ns/mnt"); err == nil {
		if its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid)); err == nil && own == its {
			return f()
		}
	}
	err = thread.InMountNS(ns, f)
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("enter the node's mount namespace: %w: a privileged container with hostPID is needed", err)
	}
	return err
}
