// Package node puts the runtime on a node of Kubernetes and takes it away: programs,
// guest, configuration, and the handler "uni" in containerd's configuration. It works
// on a tree of files, so that the node can be the one that it runs on or, as from a
// DaemonSet's container, one that is mounted somewhere.
//
//	Install ── programs ── guest ── /etc/uni/config.toml ── containerd's configuration ─▶ Changes
//
// It is idempotent: what is there already stays untouched, and Changes says what was
// not. Files are replaced by renaming, so that pods go on with those they have. Only if
// containerd's configuration has changed something has to be restarted, which is left
// to the caller; containers do not end by it.
//
// Where containerd's configuration is, and what is added to it:
//
//	k3s, rke2       config-v3.toml.d/uni.toml beside the generated config.toml where
//	                that imports such files, else the template config-v3.toml.tmpl
//	                (containerd 2) or config.toml.tmpl (1.7), which begins with
//	                k3s' own: {{ template "base" . }}
//	containerd 2    /etc/containerd/conf.d/uni.toml where config.toml imports it, else
//	                lines of config.toml itself
//	containerd 1    lines of /etc/containerd/config.toml: what it imports replaces the
//	                settings of the whole plugin
//
// Such lines are between two comments, by which they are found again. A handler that
// somebody else has configured is left alone.
package node
