package image

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"containerd-shim-uni/builder/tree"
)

// Tree is an image's files. Close it when their contents are not needed any
// more.
type Tree struct {
	Root   *tree.Node
	layers []*spooled
}

// Close releases the files' contents.
func (t *Tree) Close() error {
	var errs []error
	for _, l := range t.layers {
		if l != nil {
			errs = append(errs, l.Close())
		}
	}
	return errors.Join(errs...)
}

// parallelLayers is how many layers are fetched and uncompressed at once.
const parallelLayers = 3

// Flatten applies the image's layers in order. Contents are kept in unnamed
// files of Options.TempDir, metadata in memory. The same image gives the same
// tree, whatever its source and compression.
func (i *Image) Flatten(ctx context.Context) (_ *Tree, err error) {
	t := &Tree{layers: make([]*spooled, len(i.layers))}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s: %w", i.Source, errors.Join(err, t.Close()))
		}
	}()
	if err := i.spool(ctx, t.layers); err != nil {
		return nil, err
	}
	m := newMerger()
	for n, l := range t.layers {
		if err := m.apply(l.items); err != nil {
			return nil, fmt.Errorf("layer %s: %w", i.layers[n].name, err)
		}
		l.items = nil
	}
	t.Root = m.tree()
	return t, nil
}

// spool spools all layers, some at once. The first error ends the others.
func (i *Image) spool(ctx context.Context, to []*spooled) error {
	for _, l := range i.layers {
		i.options.Progress.expect(l.size)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	slots := make(chan struct{}, parallelLayers)
	var wg sync.WaitGroup
	for n, l := range i.layers {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if ctx.Err() != nil {
				return
			}
			s, err := l.spool(ctx, i.options.TempDir, i.options.Progress)
			if err != nil {
				cancel(fmt.Errorf("layer %s: %w", l.name, err))
				return
			}
			to[n] = s
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}
