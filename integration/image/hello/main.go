// Hello is the smallest program an image holds: it prints one line.
package main

import "os"

func main() {
	if _, err := os.Stdout.WriteString("hello from a static program\n"); err != nil {
		os.Exit(1)
	}
}
