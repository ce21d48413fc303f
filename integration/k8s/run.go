package k8s

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	"containerd-shim-uni/integration/conformance"
)

// checkTimeout bounds one check on one runtime.
const checkTimeout = 6 * time.Minute

// check is a row of the table.
type check struct {
	name string
	run  func(*try) error
}

// Run runs the checks that a pattern names on a runtime, says on w what each did,
// and returns their outcomes.
func (c *Cluster) Run(ctx context.Context, w io.Writer, runtime string, only *regexp.Regexp) conformance.Results {
	results := conformance.Results{}
	for _, k := range slices.Concat(workloads, volumes, limits, faults) {
		if !only.MatchString(k.name) || ctx.Err() != nil {
			continue
		}
		start := time.Now()
		err := c.try(ctx, k, runtime)
		results[k.name] = conformance.Pass
		if err != nil {
			results[k.name] = conformance.Fail
		}
		fmt.Fprintf(w, "%-5s %-28s %s %5.1f s\n", runtime, k.name, results[k.name], time.Since(start).Seconds())
		if err != nil {
			fmt.Fprintf(w, "      %s\n", strings.ReplaceAll(err.Error(), "\n", "\n      "))
		}
	}
	return results
}

// try runs a check in a namespace of its own, which is removed.
func (c *Cluster) try(ctx context.Context, k check, runtime string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	t := &try{ctx, c, runtime, k.name + "-" + runtime}
	if _, err := c.Kubectl(t, "", "create", "namespace", t.namespace); err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
		defer cancel()
		_, gone := c.Kubectl(ctx, "", "delete", "namespace", t.namespace, "--timeout=100s")
		err = errors.Join(err, gone)
	}()
	// Pods of a namespace without it are refused.
	if err := t.field("serviceaccount/default", "{.metadata.name}", "default"); err != nil {
		return err
	}
	return k.run(t)
}
