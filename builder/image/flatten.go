package image

import (
	"context"
	"errors"
	"fmt"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"

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
// files of Options.TempDir, metadata in memory: that of all layers together is
// bounded (tree.Meter), more is tree.ErrTooLarge. The same image gives the same
// tree, whatever its source and compression.
func (i *Image) Flatten(ctx context.Context) (_ *Tree, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	p := i.spool(ctx, cancel)
	defer p.wait()
	defer cancel(nil)
	m := newMerger()
	t := &Tree{layers: p.layers}
	defer func() {
		if err != nil {
			cancel(err)
			p.wait()
			err = fmt.Errorf("%s: %w", i.Source, errors.Join(err, t.Close()))
		}
	}()
	for _, l := range i.layers {
		s, err := p.take(ctx, l.diffID)
		if err != nil {
			return nil, err
		}
		if err := m.apply(s.items); err != nil {
			return nil, fmt.Errorf("layer %s: %w", l.name, err)
		}
		p.done(l.diffID)
	}
	t.Root = m.tree()
	return t, nil
}

// spooler spools layers, some at once, in the order in which they are first
// needed. A layer that an image names many times is there once.
type spooler struct {
	layers []*spooled
	wg     sync.WaitGroup
	slots  chan struct{}
	by     map[v1.Hash]*spooling
}

// spooling is one layer.
type spooling struct {
	index int // in layers
	uses  int // yet to come
	taken bool
	ready chan struct{} // closed when it is spooled; never after an error
}

// spool begins. The first error is the cause that ends ctx, and all layers.
func (i *Image) spool(ctx context.Context, cancel context.CancelCauseFunc) *spooler {
	p := &spooler{slots: make(chan struct{}, parallelLayers), by: map[v1.Hash]*spooling{}}
	var order []layer
	for _, l := range i.layers {
		if one := p.by[l.diffID]; one != nil {
			one.uses++
			continue
		}
		p.by[l.diffID] = &spooling{index: len(order), uses: 1, ready: make(chan struct{})}
		order = append(order, l)
		i.options.Progress.expect(l.size)
	}
	p.layers = make([]*spooled, len(order))
	meter := &tree.Meter{}
	one := func(l layer) {
		s, err := l.spool(ctx, i.options.TempDir, i.options.Progress, meter)
		if err != nil {
			cancel(fmt.Errorf("layer %s: %w", l.name, err))
			return
		}
		at := p.by[l.diffID]
		p.layers[at.index] = s
		close(at.ready)
	}
	p.wg.Go(func() {
		for _, l := range order {
			select {
			case <-ctx.Done():
				return
			case p.slots <- struct{}{}:
				p.wg.Go(func() { one(l) })
			}
		}
	})
	return p
}

// take waits for a layer.
func (p *spooler) take(ctx context.Context, diffID v1.Hash) (*spooled, error) {
	at := p.by[diffID]
	select {
	case <-at.ready:
		return p.layers[at.index], nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// done says that a layer is applied: another can be fetched, and after its last
// use its entries are not needed.
func (p *spooler) done(diffID v1.Hash) {
	at := p.by[diffID]
	if !at.taken {
		at.taken = true
		<-p.slots
	}
	if at.uses--; at.uses == 0 {
		p.layers[at.index].items = nil
	}
}

// wait waits for what was begun.
func (p *spooler) wait() { p.wg.Wait() }
