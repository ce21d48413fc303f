// Package confinetest helps tests to see what a confined process sees.
package confinetest
