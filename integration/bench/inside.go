package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"containerd-shim-uni/integration/kvm"
)

// inside compares both runtimes in a machine that has KVM, see package kvm.
// That machine is emulated: its ratio says something about a host, its times
// do not. Emulation makes an exit to the hypervisor dear, so a host's ratio is
// smaller.
func (b *bench) inside(ctx context.Context, t *table) (err error) {
	dir, err := os.MkdirTemp("", "uni-kvm-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	const self = "./integration/bench"
	checkout := filepath.Dir(b.out)
	payload := kvm.Payload{Checkout: checkout, Cache: b.cache, Peers: []string{version}, Programs: []string{self}}
	root, err := kvm.NewRoot(ctx, checkout, b.cache, filepath.Join(b.out, "kvm-root.log"))
	if err != nil {
		return err
	}
	disk, err := payload.New(ctx, dir)
	if err != nil {
		return err
	}
	l1, err := kvm.Start(ctx, kvm.Options{Root: root, Payload: disk, Dir: dir, MemoryMiB: 4096, CPUs: 2})
	if err != nil {
		return err
	}
	defer l1.Stop()
	var said strings.Builder
	if status, err := l1.Run(ctx, kvm.Setup, &said); err != nil || status != 0 {
		return fmt.Errorf("make a host with KVM: status %d, %w: %s", status, err, said.String())
	}
	t.head("in an emulated machine with KVM (AMD's SVM), by \"bench -only hello\"")
	script := kvm.Exports(payload.Env()) + "cd " + kvm.Mount + " && exec " + kvm.Program(self) + " -only hello -runs 5"
	status, err := l1.Run(ctx, script, t.w)
	if err == nil && status != 0 {
		err = fmt.Errorf("bench in the machine with KVM: status %d", status)
	}
	return err
}
