package task

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/containerd/log"
)

// undoTimeout bounds undoing a container that could not be created.
const undoTimeout = 20 * time.Second

// undo is what must be taken back if a later step fails.
type undo struct {
	mu    sync.Mutex
	steps []undoStep
}

type undoStep struct {
	name string
	run  func(context.Context) error
}

// add remembers how to take back a step that was done, or may have been done
// in part.
func (u *undo) add(name string, run func(context.Context) error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.steps = append(u.steps, undoStep{name, run})
}

// run takes everything back, the last first, also when ctx has ended. What
// cannot be taken back is logged.
func (u *undo) run(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	u.mu.Lock()
	steps := u.steps
	u.steps = nil
	u.mu.Unlock()
	for _, step := range slices.Backward(steps) {
		if err := step.run(ctx); err != nil {
			log.G(ctx).WithError(err).WithField("step", step.name).Error("a failed creation could not be undone")
		}
	}
}
