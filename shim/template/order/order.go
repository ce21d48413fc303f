package order

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"containerd-shim-uni/config"
	"containerd-shim-uni/unikernel"
)

// Order asks a maker's process for a template.
type Order struct {
	Config config.Config
	// Machine is one of the shape; nil asks for the Container's.
	Machine   *unikernel.Machine `json:",omitempty"`
	Container *Container         `json:",omitempty"`
	// Force makes one although an earlier one was no good.
	Force bool `json:",omitempty"`
}

// Container is what of a container decides on its machine's shape.
type Container struct {
	unikernel.Resources
	// Interfaces is how many its network has.
	Interfaces int
	// ReadOnly says that its root is, so that it has no disk to write to.
	ReadOnly bool
}

// maxOrder bounds an order in bytes.
const maxOrder = 1 << 20

// Read reads an order.
func Read(r io.Reader) (Order, error) {
	var q Order
	err := json.NewDecoder(io.LimitReader(r, maxOrder)).Decode(&q)
	if err == nil && q.Machine == nil && q.Container == nil {
		err = errors.New("neither a machine nor a container")
	}
	if err != nil {
		return q, fmt.Errorf("order of a template: %w", err)
	}
	return q, nil
}
