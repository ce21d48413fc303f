package frontend

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"

	"containerd-shim-uni/shim/event"
	"containerd-shim-uni/shim/reaper"
	"containerd-shim-uni/shim/rpc"
	"containerd-shim-uni/shim/task"

	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
)

const (
	// readyFD is the descriptor on which a shim tells start that it has its socket,
	// by readyWord, or why not.
	readyFD   = 3
	readyWord = "ready"
	// replyTimeout is for containerd to get the reply to Shutdown and leave,
	// flushTimeout for the events.
	replyTimeout = 500 * time.Millisecond
	flushTimeout = 5 * time.Second
	// maxStacks is what a pipe holds (pipe(7)), less the rest of a log line.
	maxStacks = 60 << 10
	// releaseTimeout bounds closing libvirt while containerd waits, which gives up
	// after 3 s; leaveTimeout when nobody does.
	releaseTimeout = 2 * time.Second
	leaveTimeout   = 10 * time.Second
	// settleTimeout is for what stopped containers wrote to reach the host's disk.
	settleTimeout = time.Minute
)

// serve is the shim.
func (r Runtime) serve(ctx context.Context, f flags) error {
	l, err := makeSocket(f)
	if err != nil {
		return err
	}
	// Once: another shim of the group may have made the socket anew. Whatever fails
	// from here on, also when the bundle of a client that has gone is no more.
	vanish := sync.OnceFunc(func() { _ = os.Remove(l.Addr().String()) })
	defer vanish()
	if err := openLog(f.bundle, f.debug); err != nil {
		return fmt.Errorf("log: %w", err)
	}
	err = r.serveGroup(ctx, f, l, vanish)
	if err != nil {
		log.L.WithError(err).Error("shim ends")
	}
	return err
}

func (r Runtime) serveGroup(ctx context.Context, f flags, l net.Listener, vanish func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := reaper.Subreaper(); err != nil {
		return err
	}
	go reaper.Run(ctx)
	stop := signals()

	sink, err := event.NewSink(os.Getenv(envTTRPCAddress), f.publishBinary, f.address)
	if err != nil {
		return err
	}
	queue := event.NewQueue(f.namespace, sink)
	host := r.Host(f.namespace, f.group)
	tasks := task.NewService(f.namespace, host, queue, func() { vanish(); release(host, releaseTimeout) })
	calls, clients := make(activity, 1), &connections{}
	server, err := ttrpc.NewServer(ttrpc.WithServerHandshaker(clients),
		ttrpc.WithUnaryServerInterceptor(calls.intercept))
	if err != nil {
		return err
	}
	rpc.New(tasks).Register(server)
	rpc.NewSandboxes(tasks).Register(server)
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, l) }()
	go task.Prewarm(ctx, host, f.bundle)
	go calls.trim(ctx)

	select {
	case <-tasks.Done():
	case s := <-stop:
		log.L.WithField("signal", s.String()).Info("shim was told to end")
		stopCtx, cancel := context.WithTimeout(ctx, leaveTimeout)
		tasks.Stop(stopCtx)
		cancel()
	case err = <-served:
	}
	vanish()
	release(host, leaveTimeout) // whatever ended it; of machines that run on nothing is taken away
	_ = l.Close()
	err = errors.Join(err, finish(clients, server, queue))
	// Nobody waits for this process any more.
	release(host, settleTimeout) // what was being opened when it was asked for first
	task.Settled(settleTimeout)
	return err
}

// release takes away what others could find of the shim. A second time there is
// nothing to do.
func release(host Host, patience time.Duration) {
	closed := make(chan error, 1)
	go func() { closed <- host.Close() }()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case err := <-closed:
		if err != nil {
			log.L.WithError(err).Warn("libvirt could not be closed")
		}
	case <-timer.C:
		log.L.Warn("libvirt does not close; left alone")
	}
}

// finish ends the shim's own services.
func finish(clients *connections, server *ttrpc.Server, queue *event.Queue) error {
	ctx, cancel := context.WithTimeout(context.Background(), replyTimeout)
	defer cancel()
	clients.drain(ctx) // containerd leaves when it has the reply to Shutdown
	_ = server.Close()
	ctx, cancel = context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	return queue.Close(ctx)
}

// signals catches what must not end the shim by itself. They are caught and
// not ignored: children would inherit that.
func signals() <-chan os.Signal {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	pipe := make(chan os.Signal, 1)
	signal.Notify(pipe, syscall.SIGPIPE)
	dump := make(chan os.Signal, 1)
	signal.Notify(dump, syscall.SIGUSR1)
	go func() { // until the process ends
		for range dump {
			dumpStacks()
		}
	}()
	return stop
}

// dumpStacks logs what every goroutine does, as containerd's own shim does on
// SIGUSR1. What does not fit in the log's fifo is cut off.
func dumpStacks() {
	stacks := make([]byte, maxStacks)
	n := runtime.Stack(stacks, true)
	log.L.Infof("goroutines:\n%s", stacks[:n])
}

// makeSocket makes the socket, and tells who waits for that, if somebody does.
func makeSocket(f flags) (net.Listener, error) {
	if f.socket == "" {
		return nil, errors.New("-socket is missing; containerd starts this program, it is not meant to be run by hand")
	}
	said := readyWord
	l, err := listen(f.socket)
	if err == nil && l == nil {
		err = errors.New("another shim serves it")
	}
	if err != nil {
		said = err.Error()
	}
	if f.ready {
		ready := os.NewFile(readyFD, "ready")
		_, _ = io.WriteString(ready, said) // who has been killed meanwhile need not know
		_ = ready.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("shim socket %s: %w", f.socket, err)
	}
	return l, nil
}
