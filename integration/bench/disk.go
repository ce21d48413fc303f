package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"containerd-shim-uni/unikernel"
)

// disk measures the first container of the large image, whose disk must be
// built, and one that finds it in the cache.
func (b *bench) disk(ctx context.Context, t *table) error {
	b.RemoveAll(ctx)
	if err := os.RemoveAll(filepath.Join(b.data, "cache")); err != nil {
		return err
	}
	t.head("from an image to a disk: Debian's Python, more than 100 MB")
	for _, name := range []string{"built", "cached"} {
		d, size, err := b.rootDisk(ctx, name)
		if err != nil {
			return err
		}
		t.line(name, "%7.0f ms  (%.0f MB)", millis(d), float64(size)/1e6)
	}
	return nil
}

// rootDisk runs a container and returns the time from its state directory to
// its root disk.
func (b *bench) rootDisk(ctx context.Context, id string) (time.Duration, int64, error) {
	key := unikernel.Key(b.Namespace, id)
	type found struct {
		took time.Duration
		size int64
	}
	done := make(chan found, 1)
	watch, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		begin := appears(watch, filepath.Join(b.state, key))
		path := filepath.Join(b.data, "containers", key, "root.erofs")
		f := found{took: appears(watch, path).Sub(begin)}
		if info, err := os.Stat(path); err == nil {
			f.size = info.Size()
		}
		done <- f
	}()
	r := b.Ctr(ctx, nil, "run", "--rm", "--runtime", uni, python, id, "python3", "-c", "print(1)")
	if r.Code != 0 {
		return 0, 0, fmt.Errorf("python: %+v", r)
	}
	cancel()
	f := <-done
	if f.size == 0 {
		return 0, 0, fmt.Errorf("the root disk of %s was not seen", id)
	}
	return f.took, f.size, nil
}
