// Package sandboxtest has fakes of what a sandbox asks of its host, for tests.
// They keep the promises of the real parts, see package
// unikernel/machinetest, and can be told to be worse.
package sandboxtest
