// Testsum reads what "go test -json" prints.
//
//	go test -json … | testsum -o FILE     shows packages and what failed, keeps
//	                                      everything in FILE
//	testsum -skips LIST FILE…             sums the files up; a test that was
//	                                      skipped in all of them and is not in
//	                                      LIST is a failure
//
// The exit status is 1 when something failed.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
)

func main() {
	out := flag.String("o", "", "copy standard input to this file and show it")
	skips := flag.String("skips", "", "file that lists the tests that may be skipped")
	flag.Parse()
	ok, err := run(*out, *skips, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "testsum:", err)
	}
	if !ok || err != nil {
		os.Exit(1)
	}
}

func run(out, skips string, files []string) (ok bool, err error) {
	if out != "" {
		f, err := os.Create(out)
		if err != nil {
			return false, err
		}
		ok, err := show(os.Stdout, io.TeeReader(os.Stdin, f))
		return ok, errors.Join(err, f.Close())
	}
	var s sum
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return false, err
		}
		err = s.read(f)
		f.Close()
		if err != nil {
			return false, fmt.Errorf("%s: %w", name, err)
		}
	}
	if skips != "" {
		if s.listed, err = readSkips(skips); err != nil {
			return false, err
		}
	}
	return s.print(os.Stdout), nil
}
