// Package conformance runs tests that others wrote for runtimes, against this
// runtime and against runc, and says where they differ: each test that runc passes
// and this runtime does not is in the file expected.txt, with its reason, or it is
// a finding. A test in the file that passes is one, too.
//
// No network is needed but Go's module proxy: the images that the tests pull come
// from a registry in this process, where one small image has all the names.
package conformance
