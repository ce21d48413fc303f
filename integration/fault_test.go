package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"containerd-shim-uni/integration/image"
)

// refused runs a container that must not start, and wants every text in what
// ctr says. What it leaves behind is looked for after the test.
func (h *host) refused(t *testing.T, c container, want ...string) {
	t.Helper()
	got := h.run(t, c, "true")
	if got.Code != 1 {
		t.Errorf("status %d, want 1; stdout %q", got.Code, got.Stdout)
	}
	for _, w := range want {
		if !strings.Contains(got.Stderr, w) {
			t.Errorf("stderr %q does not hold %q", got.Stderr, w)
		}
	}
}

func TestFilesThatAreMissing(t *testing.T) {
	uniOnly(t)
	absent := filepath.Join(t.TempDir(), "absent")
	tests := []struct{ key, path string }{
		{"linux.kernel", absent + "/vmlinux"},
		{"linux.initrd", absent + "/initrd.img"},
	}
	on(t, func(t *testing.T, h *host) {
		for _, tt := range tests {
			h.with(t, settings{tt.key: fmt.Sprintf("%q", tt.path)})
			h.refused(t, container{}, tt.path)
		}
	})
}

func TestStorageThatCannotBe(t *testing.T) {
	uniOnly(t)
	on(t, func(t *testing.T, h *host) {
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		h.with(t, settings{"storage.data_dir": fmt.Sprintf("%q", file)})
		h.refused(t, container{}, file)
	})
}

func TestConfigurationThatIsWrong(t *testing.T) {
	uniOnly(t)
	tests := []struct{ name, text, want string }{
		{"unknown key", "guest = \"linux\"\n\n[machine]\nmemory = 5\n", "line 4: unknown key machine.memory"},
		{"wrong value", "\n[machine]\nvcpus = \"many\"\n", "line 3: machine.vcpus"},
		{"not TOML", "guest = [\n", "line 1"},
	}
	on(t, func(t *testing.T, h *host) {
		for _, tt := range tests {
			h.configure(t, tt.text)
			h.refused(t, container{}, h.config, tt.want)
		}
	})
}

func TestAnnotationsThatAreWrong(t *testing.T) {
	uniOnly(t)
	tests := []struct{ annotation, want string }{
		{"guest=nosuch", `"nosuch"`},
		{"nosuch=1", "io.containerd.uni.nosuch is unknown"},
		{"memory=plenty", "io.containerd.uni.memory"},
		{"vcpus=0", "io.containerd.uni.vcpus"},
	}
	on(t, func(t *testing.T, h *host) {
		for _, tt := range tests {
			h.refused(t, container{flags: []string{"--annotation", "io.containerd.uni." + tt.annotation}}, tt.want)
		}
	})
}

func TestAnnotationThatIsNotAllowed(t *testing.T) {
	uniOnly(t)
	on(t, func(t *testing.T, h *host) {
		h.with(t, settings{"annotations.allowed": `["memory"]`})
		h.refused(t, container{flags: []string{"--annotation", "io.containerd.uni.vcpus=2"}}, "vcpus", "not allowed")
	})
}

func TestMemoryTooSmallToBoot(t *testing.T) {
	uniOnly(t)
	on(t, func(t *testing.T, h *host) {
		h.refused(t, container{flags: []string{"--memory-limit", fmt.Sprint(16 << 20)}}, "16 MiB", "needs 40 MiB")
	})
}

func TestImageForAnotherArchitecture(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		h.ok(t, "images", "import", "--platform", "linux/arm64", archive(foreign))
		got := h.run(t, container{image: foreign, flags: []string{"--platform", "linux/arm64"}})
		if got.Code != 1 || !strings.Contains(got.Stderr, "exec format error") {
			t.Errorf("got %+v, want status 1 and \"exec format error\"", got)
		}
	})
}

func TestGuestThatPanicsAtBoot(t *testing.T) {
	uniOnly(t)
	on(t, func(t *testing.T, h *host) {
		h.refused(t, container{flags: []string{"--annotation", "io.containerd.uni.kernel-args=rdinit=/nosuch"}}, "panic")
	})
}

func TestGuestThatHangsAtBoot(t *testing.T) {
	uniOnly(t)
	on(t, func(t *testing.T, h *host) {
		kernel := filepath.Join(h.Dir, "hangs")
		if err := os.WriteFile(kernel, image.HangingKernel(), 0o644); err != nil {
			t.Fatal(err)
		}
		h.with(t, settings{"linux.kernel": fmt.Sprintf("%q", kernel), "machine.boot_timeout": `"2s"`})
		h.refused(t, container{}, "2s")
	})
}

// A guest without a timer sleeps for ever. That is noticed long before the boot
// timeout of a minute, and the error says what it was.
func TestGuestThatLosesItsTimer(t *testing.T) {
	uniOnly(t)
	onNewest(t, func(t *testing.T, h *host) {
		h.refused(t, container{flags: []string{"--annotation", "io.containerd.uni.kernel-args=nolapic_timer"}}, "went to sleep before it was up")
	})
}

func TestGuestThatPanics(t *testing.T) {
	uniOnly(t)
	on(t, func(t *testing.T, h *host) {
		got := h.run(t, container{flags: []string{"--cap-add", "CAP_SYS_ADMIN"}}, "sh", "-c",
			"mount -o remount,bind,rw /proc/sys && echo 2 >/proc/sys/vm/panic_on_oom && echo before && exec tail /dev/zero")
		if got.Code != 255 || got.Stdout != "before\n" {
			t.Errorf("got %+v, want status 255", got)
		}
	})
}

func TestGuestThatFloodsItsConsole(t *testing.T) {
	uniOnly(t)
	on(t, func(t *testing.T, h *host) {
		got := h.run(t, container{flags: []string{"--device", "/dev/kmsg"}}, "sh", "-c",
			`i=0; while [ $i -lt 3000 ]; do echo "<0>flood flood flood flood flood flood flood flood $i"; i=$((i+1)); done >/dev/kmsg; echo done; exit 5`)
		if got.Code != 5 || got.Stdout != "done\n" {
			t.Errorf("got %+v, want status 5", got)
		}
	})
}

// A container that powers off ends only itself, as it does with runc: the
// kernel reports its first process as ended by SIGINT.
func TestContainerThatPowersOff(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		got := h.run(t, container{flags: []string{"--cap-add", "CAP_SYS_BOOT"}}, "sh", "-c", "poweroff -f; sleep 1000")
		if got.Code != 130 {
			t.Errorf("got %+v, want status 130", got)
		}
	})
}

func TestDiskFullWhileTheImageIsBuilt(t *testing.T) {
	uniOnly(t)
	on(t, func(t *testing.T, h *host) {
		h.with(t, settings{"storage.data_dir": fmt.Sprintf("%q", smallDisk(t, "16m")), "storage.min_free": `"0B"`})
		h.refused(t, container{image: python}, "no space left on device")
	})
}

func TestDiskFullWhileTheGuestWrites(t *testing.T) {
	uniOnly(t)
	on(t, func(t *testing.T, h *host) {
		h.with(t, settings{"storage.data_dir": fmt.Sprintf("%q", smallDisk(t, "128m")), "storage.min_free": `"16MiB"`})
		got := h.run(t, container{}, "sh", "-c", `
			df -m / | awk 'NR == 2 && $4 < 90 { print "df knows" }'
			dd if=/dev/zero of=/big bs=1M count=200 || echo failed
			rm /big
			for i in $(seq 20); do dd if=/dev/zero of=/small bs=1M count=40 conv=fsync && echo after && exit; sleep 1; done`)
		if !strings.Contains(got.Stderr, "No space left on device") || got.Stdout != "df knows\nfailed\nafter\n" {
			t.Errorf("got %+v", got)
		}
		h.with(t, settings{"storage.data_dir": fmt.Sprintf("%q", smallDisk(t, "16m")), "storage.min_free": `"17MiB"`})
		h.refused(t, container{}, "no space left on device", "storage.min_free")
	})
}

func TestWritableLayerFull(t *testing.T) {
	uniOnly(t)
	on(t, func(t *testing.T, h *host) {
		got := h.run(t, container{flags: []string{"--annotation", "io.containerd.uni.writable-size=64MiB"}},
			"sh", "-c", "dd if=/dev/zero of=/big bs=1M count=100; rm /big && echo after")
		if !strings.Contains(got.Stderr, "No space left on device") || got.Stdout != "after\n" {
			t.Errorf("got %+v", got)
		}
	})
}

// smallDisk mounts a tmpfs of a size for the rest of a test and returns its path.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir, err := os.MkdirTemp(world.dir, "small-")
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size+",mode=755"); err != nil {
		t.Fatal(err)
	}
	// QEMU runs as a user of its own and must reach its disks.
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if left, err := filepath.Glob(filepath.Join(dir, "containers", "*")); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}
