// Command shares tries what POSIX and users expect of a directory that a
// container shares with its host, and prints a line for each expectation:
//
//	NAME: ok
//	NAME: what happened instead
//
// With the argument "attributes" it tries those that have to do with extended
// attributes alone, in /a.
//
// These are mounted in the container:
//
//	/a      a directory of the host
//	/sub    /a/sub, once more
//	/b      a directory of another file system
//	/ro     /a, read-only
//	/later  a shared mount of the host, with option rslave; /private the same without
//	/one, /two  single files of two file systems
//
// What the host has to do it asks for by a file /a/ask/NAME with something in it,
// and goes on when that is gone.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// patience bounds each wait.
const patience = 10 * time.Second

// expectation is one row of the table.
type expectation struct {
	name string
	try  func(dir string) error // in an empty directory of its own, below /a
}

func main() {
	lists := [][]expectation{identity, mappings, locks, attributes, names, contents, objects, mounts}
	if len(os.Args) > 1 && os.Args[1] == "attributes" {
		lists = [][]expectation{attributes}
	} else if len(os.Args) > 1 {
		if err := child(os.Args[1], os.Args[2:]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	for _, list := range lists {
		for _, e := range list {
			fmt.Printf("%s: %s\n", e.name, result(e))
		}
	}
}

func result(e expectation) string {
	dir := filepath.Join("/a", strings.ReplaceAll(e.name, " ", "-"))
	if err := os.Mkdir(dir, 0o777); err != nil {
		return err.Error()
	}
	done := make(chan error, 1)
	go func() { done <- e.try(dir) }()
	select {
	case err := <-done:
		if err != nil {
			return strings.ReplaceAll(err.Error(), "\n", " ")
		}
		return "ok"
	case <-time.After(3 * patience):
		return "no end"
	}
}

// ask has the host do something and returns when it is done.
func ask(what string) error {
	file := "/a/ask/" + what
	if err := os.WriteFile(file, []byte("please"), 0o600); err != nil {
		return err
	}
	return until("the host does "+what, func() bool {
		_, err := os.Stat(file)
		return errors.Is(err, os.ErrNotExist)
	})
}

// until waits for a condition.
func until(what string, is func() bool) error {
	for began := time.Now(); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Since(began) > patience {
			return fmt.Errorf("not within %v: %s", patience, what)
		}
	}
	return nil
}

// want is an error unless two values are equal.
func want[T comparable](what string, got, want T) error {
	if got != want {
		return fmt.Errorf("%s is %v, want %v", what, got, want)
	}
	return nil
}
