// Euid says as whom it runs, which a mode with the set-user-ID bit may change.
package main

import (
	"fmt"
	"os"
)

func main() { fmt.Printf("Effective uid: %d\n", os.Geteuid()) }
