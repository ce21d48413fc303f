package event

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"sync"

	eventsapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
)

// TTRPC returns a sink that forwards to containerd's ttrpc address: the path of
// a Unix socket, with or without "unix://".
func TTRPC(address string) Sink {
	return &ttrpcSink{path: strings.TrimPrefix(address, "unix://")}
}

type ttrpcSink struct {
	path string

	mu     sync.Mutex
	client *ttrpc.Client // nil until connected
}

func (s *ttrpcSink) Deliver(ctx context.Context, env *types.Envelope) error {
	client, err := s.connect(ctx)
	if err != nil {
		return err
	}
	_, err = eventsapi.NewTTRPCEventsClient(client).Forward(ctx, &eventsapi.ForwardRequest{Envelope: env})
	if err == nil {
		return nil
	}
	if native := errgrpc.ToNative(err); native != nil {
		err = native
	}
	// The next try takes a new connection: this one may lead to a containerd
	// that is gone.
	s.disconnect(client)
	return fmt.Errorf("forward event: %w", err)
}

func (s *ttrpcSink) connect(ctx context.Context) (*ttrpc.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil {
		return s.client, nil
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", s.path)
	if err != nil {
		return nil, err
	}
	s.client = ttrpc.NewClient(conn)
	return s.client, nil
}

func (s *ttrpcSink) disconnect(client *ttrpc.Client) {
	s.mu.Lock()
	if s.client == client {
		s.client = nil
	}
	s.mu.Unlock()
	_ = client.Close()
}

func (s *ttrpcSink) Close() error {
	s.mu.Lock()
	client := s.client
	s.client = nil
	s.mu.Unlock()
	if client == nil {
		return nil
	}
	return client.Close()
}

// Binary returns a sink that runs containerd's binary for every event. Address
// is containerd's gRPC address.
func Binary(path, address string) Sink { return &binarySink{path: path, address: address} }

type binarySink struct{ path, address string }

func (s *binarySink) Deliver(ctx context.Context, env *types.Envelope) error {
	data, err := proto.Marshal(env.Event)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, s.path, "--address", s.address, "publish",
		"--topic", env.Topic, "--namespace", env.Namespace)
	cmd.Stdin = bytes.NewReader(data)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s publish: %w: %s", s.path, err, bytes.TrimSpace(out))
	}
	return nil
}

func (*binarySink) Close() error { return nil }

// NewSink returns the way to containerd that a shim was given: the ttrpc
// address if there is one, else containerd's binary.
func NewSink(ttrpcAddress, binary, grpcAddress string) (Sink, error) {
	switch {
	case ttrpcAddress != "":
		return TTRPC(ttrpcAddress), nil
	case binary != "" && grpcAddress != "":
		return Binary(binary, grpcAddress), nil
	default:
		return nil, errors.New("containerd gave neither a ttrpc address (TTRPC_ADDRESS) nor a binary that publishes events (-publish-binary and -address)")
	}
}
