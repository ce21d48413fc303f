// Package hooks runs the lifecycle hooks of an OCI bundle on the host, as the
// OCI runtime specification's section "POSIX-platform Hooks" defines them.
//
// prestart, createRuntime, poststart and poststop run in the host's
// namespaces. createContainer and startContainer would run inside the
// container, which is a machine of its own here: Check refuses them.
package hooks
