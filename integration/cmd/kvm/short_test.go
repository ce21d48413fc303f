package main

import (
	"os"
	"runtime"
	"testing"
)

// TestShort is the form of "make kvm" that "make test" has time for.
func TestShort(t *testing.T) {
	if os.Getenv("UNI_KVM_TESTS") != "1" {
		t.Skip("makes a Debian tree, as root, and boots it; set UNI_KVM_TESTS=1")
	}
	t.Chdir("../../..")
	runtime.LockOSThread() // as main does
	defer runtime.UnlockOSThread()
	ok, err := run(t.Context(), short, false)
	if err != nil {
		t.Fatal(err)
	}
	if !ok {
		t.Error("some tests failed in L1; what they said is in out/kvm")
	}
}
