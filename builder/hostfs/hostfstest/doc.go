// Package hostfstest makes trees for tests.
package hostfstest
