package task

import (
	"context"
	"fmt"
	"time"

	"containerd-shim-uni/unikernel"
)

// asker asks a guest, or the machine's driver, on behalf of clients. The question
// goes on to an end of its own, whatever becomes of the client; and the client
// gets an answer soon, whatever becomes of the question.
type asker struct {
	// slots bounds the questions that are open at a time.
	slots chan struct{}
}

func newAsker() asker { return asker{make(chan struct{}, maxQuestions)} }

// ask does what the client wants. What the guest has not answered in time is
// taken as accepted: like a signal to a process that is stopped, it has its effect
// when the guest goes on, and the client is free to do something stronger. The
// error is then nil and late is true.
func (a asker) ask(ctx context.Context, do func(context.Context) error) (late bool, err error) {
	select {
	case a.slots <- struct{}{}:
	default:
		return false, fmt.Errorf("%w: %d questions are open already, and the guest answers none; SIGKILL ends it", unikernel.ErrUnavailable, maxQuestions)
	}
	answer := make(chan error, 1)
	go func() {
		defer func() { <-a.slots }()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerTimeout)
		defer cancel()
		answer <- do(ctx)
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case err := <-answer:
		return false, err
	case <-timer.C:
		return true, nil
	}
}

// tell is ask for what the guest is told; the log says when it does not answer.
func (c *Container) tell(ctx context.Context, what string, do func(context.Context) error) error {
	late, err := c.asker.ask(ctx, do)
	if late {
		c.log().Warnf("the guest does not answer: %s is under way", what)
	}
	return err
}
