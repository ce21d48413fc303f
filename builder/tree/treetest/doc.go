// Package treetest compares file trees in tests.
package treetest
