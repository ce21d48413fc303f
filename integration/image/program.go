package image

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Protocols are those that BuildProgram builds for: multiboot, also with a header that
// says where the file is loaded, and PVH.
var Protocols = []string{"MULTIBOOT", "PLACED", "PVH"}

// BuildProgram builds the kernel in the folder program for a protocol, one of
// Protocols, below dir, with the C compiler that builds the
// runtime, and returns its path.
func BuildProgram(source, dir, protocol string) (string, error) {
	if built := os.Getenv(ProgramsVariable); built != "" {
		return filepath.Join(built, "program-"+protocol), nil
	}
	out := filepath.Join(dir, "program-"+protocol)
	// Position and page size such that the multiboot header is in the file's
	// first 8 KiB; nothing but what stands there.
	build := exec.Command("gcc", "-m32", "-D"+protocol, "-Os", "-Wall", "-Werror", "-ffreestanding", "-fno-pic", "-no-pie",
		"-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-mno-sse", "-nostdlib", "-static",
		"-Wl,-n,-Ttext-segment=0x100000,--build-id=none", "-o", out,
		filepath.Join(source, "start.S"), filepath.Join(source, "run.c"))
	if text, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build a %s program: %w: %s", protocol, err, text)
	}
	return out, nil
}

// Initrd packs a directory of the host as an initial RAM disk.
func Initrd(dir, out string) error {
	pack := exec.Command("sh", "-c", `find . -print0 | sort -z | cpio -0 -o -H newc --quiet >"$0"`, out)
	pack.Dir = dir
	if text, err := pack.CombinedOutput(); err != nil {
		return fmt.Errorf("pack %s: %w: %s", dir, err, text)
	}
	return nil
}
