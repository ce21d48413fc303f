// Mkimage writes one of the test images as an OCI archive:
//
//	mkimage -kind busybox -name example.org/busybox:latest FILE
//
// Kinds: busybox; single, with -program, for one static program; python, with
// -tree, the directory that keeps the unpacked Debian packages.
package main

import (
	"flag"
	"fmt"
	"os"

	"containerd-shim-uni/integration/image"
)

func main() {
	kind := flag.String("kind", "busybox", "busybox, single or python")
	name := flag.String("name", "", "reference the image gets")
	program := flag.String("program", "/bin/busybox", "the static program")
	tree := flag.String("tree", "", "directory of the unpacked packages, made when missing")
	flag.Parse()
	if flag.NArg() != 1 || *name == "" {
		fmt.Fprintln(os.Stderr, "usage: mkimage [-kind KIND] -name REFERENCE FILE")
		os.Exit(2)
	}
	if err := run(*kind, *name, *program, *tree, flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		os.Exit(1)
	}
}

func run(kind, name, program, tree, file string) (err error) {
	var i image.Image
	switch kind {
	case "busybox":
		i, err = image.Busybox(name, program)
	case "single":
		i = image.Single(name, program)
	case "python":
		i, err = image.Python(name, tree)
	default:
		err = fmt.Errorf("unknown kind %q", kind)
	}
	if err != nil {
		return err
	}
	return i.WriteFile(file)
}
