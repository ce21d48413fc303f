package builder

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"containerd-shim-uni/unikernel"
)

// The test binary runs itself as further processes on a Store.
const helperEnv = "UNI_BUILDER_HELPER"

func TestMain(m *testing.M) {
	switch os.Getenv(helperEnv) {
	case "root":
		os.Exit(helperRoot(os.Args[1:]))
	case "churn":
		os.Exit(helperChurn(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// helperRoot asks for one root: store, tree, key, dst. It says "opened" when
// it was the one to build.
func helperRoot(args []string) int {
	s, err := Open(args[0], Options{MaxSize: large})
	if err == nil {
		err = s.Root(context.Background(), unikernel.Rootfs{Key: args[2], Open: func(context.Context) (string, func() error, error) {
			fmt.Println("opened")
			return args[1], func() error { return nil }, nil
		}}, args[3])
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// helperChurn builds, links, evicts and removes until it is killed: store,
// tree, directory for containers. It says "ready" once.
func helperChurn(args []string) int {
	s, err := Open(args[0], Options{MaxSize: 3 << 20})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	for i := 0; ; i++ {
		dir := filepath.Join(args[2], strconv.Itoa(i))
		err := os.MkdirAll(dir, 0o700)
		if err == nil {
			key := strconv.Itoa(i % 7)
			err = s.Root(context.Background(), unikernel.Rootfs{Key: key, Open: func(context.Context) (string, func() error, error) {
				return args[1], func() error { return nil }, nil
			}}, filepath.Join(dir, "root.erofs"))
		}
		if err == nil && s.mke2 != "" {
			err = s.Writable(context.Background(), filepath.Join(dir, "writable.ext4"), int64(16+i%3)<<20)
		}
		if err == nil && i >= 3 {
			err = os.RemoveAll(filepath.Join(args[2], strconv.Itoa(i-3)))
		}
		if err != nil {
			fmt.Println(err)
			return 1
		}
		if i == 0 {
			fmt.Println("ready")
		}
	}
}

func helper(t *testing.T, role string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), helperEnv+"="+role)
	return cmd
}

func TestConcurrentRootsInOneProcess(t *testing.T) {
	s, container := openStore(t, Options{MaxSize: large})
	tree := newFakeRoot(t, map[string]string{"f": "x"}).dir
	var opened atomic.Int32
	var group sync.WaitGroup
	const callers = 40
	for i := range callers {
		dst := filepath.Join(container(strconv.Itoa(i)), "root.erofs")
		root := unikernel.Rootfs{Key: strconv.Itoa(i % 4), Open: func(context.Context) (string, func() error, error) {
			opened.Add(1)
			return tree, func() error { return nil }, nil
		}}
		group.Go(func() {
			if err := s.Root(t.Context(), root, dst); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if opened.Load() != 4 {
		t.Errorf("4 keys were opened %d times", opened.Load())
	}
	for i := range callers {
		a := filepath.Join(container(strconv.Itoa(i)), "root.erofs")
		b := filepath.Join(container(strconv.Itoa(i%4)), "root.erofs")
		if !os.SameFile(inode(t, a), inode(t, b)) {
			t.Errorf("container %d has its own file", i)
		}
	}
	if files := cacheFiles(t, s); len(files) != 4 {
		t.Errorf("cache holds %q", files)
	}
}

func TestConcurrentRootsInManyProcesses(t *testing.T) {
	s, container := openStore(t, Options{MaxSize: large})
	tree := newFakeRoot(t, map[string]string{"f": strings.Repeat("x", 1<<20)}).dir
	const processes = 8
	var outputs [processes]bytes.Buffer
	var cmds [processes]*exec.Cmd
	for i := range cmds {
		dst := filepath.Join(container(strconv.Itoa(i)), "root.erofs")
		cmds[i] = helper(t, "root", filepath.Dir(s.dir), tree, "key", dst)
		cmds[i].Stdout = &outputs[i]
		if err := cmds[i].Start(); err != nil {
			t.Fatal(err)
		}
	}
	opened := 0
	first := filepath.Join(container("0"), "root.erofs")
	for i, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Errorf("process %d: %v: %s", i, err, &outputs[i])
			continue
		}
		opened += strings.Count(outputs[i].String(), "opened")
		if !os.SameFile(inode(t, first), inode(t, filepath.Join(container(strconv.Itoa(i)), "root.erofs"))) {
			t.Errorf("process %d got its own file", i)
		}
	}
	if opened != 1 {
		t.Errorf("the root was opened %d times", opened)
	}
}

// A process that builds, evicts and links is killed at any point. Whatever it
// left, every cached file is whole, the next Root and Writable succeed, and
// nothing unfinished remains.
func TestKilledProcessLeavesNothing(t *testing.T) {
	s, container := openStore(t, Options{MaxSize: large})
	tree := newFakeRoot(t, map[string]string{"a": strings.Repeat("x", 700<<10), "b/c": strings.Repeat("y", 300<<10)}).dir
	reference := filepath.Join(container("reference"), "root.erofs")
	if err := s.Root(t.Context(), unikernel.Rootfs{Open: func(context.Context) (string, func() error, error) {
		return tree, func() error { return nil }, nil
	}}, reference); err != nil {
		t.Fatal(err)
	}
	want := fileSum(t, reference)
	rnd := rand.New(rand.NewPCG(1, 2))
	for round := range 15 {
		containers := container("killed")
		cmd := helper(t, "churn", filepath.Dir(s.dir), tree, containers)
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		family := inheritPipe(t, cmd)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		cmd.ExtraFiles[0].Close()
		line := make([]byte, 200)
		n, _ := stdout.Read(line)
		if string(line[:n]) != "ready\n" {
			t.Fatalf("helper: %s", line[:n])
		}
		time.Sleep(time.Duration(rnd.IntN(int(60 * time.Millisecond))))
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		var exit *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &exit) || exit.Exited() {
			t.Fatalf("round %d: the helper ended by itself: %v", round, err)
		}
		// A child that was not yet the mke2fs it was to become holds the locks
		// for a moment more.
		if _, err := family.Read(line); !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		family.Close()
		// What the shim does for a container whose shim died.
		if err := os.RemoveAll(containers); err != nil {
			t.Fatal(err)
		}
		checkAfterKill(t, s, container, tree, round, want)
	}
}

// inheritPipe returns a pipe that is at its end when cmd and all its children
// are gone.
func inheritPipe(t *testing.T, cmd *exec.Cmd) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.ExtraFiles = []*os.File{w}
	return r
}

func checkAfterKill(t *testing.T, s *Store, container func(string) string, tree string, round int, want [32]byte) {
	t.Helper()
	dir := container(fmt.Sprintf("after%d", round))
	dst := filepath.Join(dir, "root.erofs")
	root := unikernel.Rootfs{Key: fmt.Sprintf("after %d", round), Open: func(context.Context) (string, func() error, error) {
		return tree, func() error { return nil }, nil
	}}
	if err := s.Root(t.Context(), root, dst); err != nil {
		t.Fatalf("round %d: %v", round, err)
	}
	if s.mke2 != "" {
		if err := s.Writable(t.Context(), filepath.Join(dir, "w"), 16<<20); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
	for _, name := range cacheFiles(t, s) {
		if strings.Contains(name, tempSuffix) || strings.Contains(name, lockSuffix) {
			t.Errorf("round %d: %s remains", round, name)
		}
		if strings.HasSuffix(name, ".erofs") && fileSum(t, filepath.Join(s.dir, name)) != want {
			t.Errorf("round %d: %s is not whole", round, name)
		}
	}
	entries, err := s.Entries()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Kind == "root" && e.Users > 1 {
			t.Errorf("round %d: %s is pinned by %d users", round, e.Digest, e.Users)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
}

func fileSum(t *testing.T, path string) [32]byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(data)
}
