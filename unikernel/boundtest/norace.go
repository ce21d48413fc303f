//go:build !race

package boundtest

const margin = 1
