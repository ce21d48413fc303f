// Package distro tries the runtime on a Debian release other than the machine's
// own: distro.sh beside this folder does it, tree.sh makes the release's tree,
// inside.sh the namespaces' mounts, and tests.sh runs in it.
package distro
