package distro

import (
	"bufio"
	"os"
	"os/exec"
	"testing"
)

// TestDebian13 is the short form of "make distro": what this checkout built,
// installed on Debian 13.
func TestDebian13(t *testing.T) {
	if os.Getenv("UNI_DISTRO_TESTS") != "1" {
		t.Skip("makes a Debian tree, as root; set UNI_DISTRO_TESTS=1")
	}
	cmd := exec.CommandContext(t.Context(), "../distro.sh", "trixie", "short")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		t.Log(lines.Text())
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
