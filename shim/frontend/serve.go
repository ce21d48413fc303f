package frontend

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
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
	// listenFD is the descriptor on which start hands over the socket.
	listenFD = 3
	// replyTimeout is for the reply to Shutdown to get out, flushTimeout for
	// the events.
	replyTimeout = 500 * time.Millisecond
	flushTimeout = 5 * time.Second
	// releaseTimeout bounds closing libvirt.
	releaseTimeout = 2 * time.Second
)

// serve is the shim.
func (r Runtime) serve(ctx context.Context, f flags) error {
	if err := openLog(f.bundle, f.debug); err != nil {
		return fmt.Errorf("log: %w", err)
	}
	err := r.serveGroup(ctx, f)
	if err != nil {
		log.L.WithError(err).Error("shim ends")
	}
	return err
}

func (r Runtime) serveGroup(ctx context.Context, f flags) error {
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
	l, err := listener(f.socket)
	if err != nil {
		return fmt.Errorf("shim socket: %w", err)
	}
	tasks := task.NewService(f.namespace, host, queue, func() { release(host, l) })
	calls := make(activity, 1)
	server, err := ttrpc.NewServer(ttrpc.WithServerHandshaker(ttrpc.UnixSocketRequireSameUser()),
		ttrpc.WithUnaryServerInterceptor(calls.intercept))
	if err != nil {
		return err
	}
	rpc.New(tasks).Register(server)
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, l) }()
	go task.Prewarm(ctx, host, f.bundle)
	go calls.trim(ctx)

	select {
	case <-tasks.Done():
	case s := <-stop:
		// As containerd's own shim does: end at once. containerd then cleans
		// up by calling delete.
		log.L.WithField("signal", s.String()).Info("shim was told to end")
	case err = <-served:
	}
	return errors.Join(err, finish(server, queue, l))
}

// release takes away what others could find of the shim, when no container is
// left. containerd waits 3 s for it.
func release(host Host, l net.Listener) {
	_ = os.Remove(l.Addr().String())
	closed := make(chan error, 1)
	go func() { closed <- host.Close() }()
	timer := time.NewTimer(releaseTimeout)
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
func finish(server *ttrpc.Server, queue *event.Queue, l net.Listener) error {
	_ = os.Remove(l.Addr().String())
	ctx, cancel := context.WithTimeout(context.Background(), replyTimeout)
	defer cancel()
	// Connections that stay open are containerd's to close.
	if err := server.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		log.L.WithError(err).Debug("task service ends")
	}
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
	return stop
}

func listener(path string) (net.Listener, error) {
	if path != "" {
		return net.Listen("unix", path)
	}
	f := os.NewFile(listenFD, "socket")
	defer f.Close()
	return net.FileListener(f)
}
