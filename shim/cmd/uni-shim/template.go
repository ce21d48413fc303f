package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"containerd-shim-uni/builder/states"
	"containerd-shim-uni/config"
	"containerd-shim-uni/libvirt"
	"containerd-shim-uni/shim/network"
	"containerd-shim-uni/shim/sandbox"
	"containerd-shim-uni/shim/template"
	"containerd-shim-uni/shim/template/order"
	"containerd-shim-uni/unikernel"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

// templates are those that machines of a configuration go on from.
type templates struct {
	*states.Store
	cfg config.Config
}

func storeOf(cfg config.Config) *states.Store {
	return states.New(cfg.Storage.DataDir, cfg.Storage.MinFree)
}

// Templates implements sandbox.Host. libvirt's daemon is given no open files.
func (h *host) Templates(cfg config.Config) sandbox.Templates {
	if cfg.Machine.Template == config.TemplateOff || cfg.Libvirt.URI != libvirt.DefaultURI {
		return nil
	}
	return templates{storeOf(cfg), cfg}
}

// Order implements sandbox.Templates: this program, once more, makes it, in a session
// of its own. It goes on when this process ends.
func (t templates) Order(shape string, m unikernel.Machine) {
	if !t.Wanted(shape) {
		return
	}
	if err := t.start(m.Neutral("/")); err != nil {
		log.L.WithError(err).Warn("no template is made, and the next machine boots, too")
	}
}

func (t templates) start(m unikernel.Machine) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	request, err := json.Marshal(order.Order{Config: t.cfg, Machine: &m})
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	defer w.Close()
	if _, err := unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, len(request)); err != nil { // nobody reads yet
		return err
	}
	if _, err := w.Write(request); err != nil {
		return err
	}
	cmd := exec.Command(self, "template", t.cfg.Storage.StateDir) // whose it is, for who lists processes
	cmd.Dir, cmd.Stdin = "/", r
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }() // it says in the store what became of it
	return nil
}

// makeTemplate makes the template that a request asks for. It is nobody's hurry.
func makeTemplate(ctx context.Context, request io.Reader) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	q, err := order.Read(request)
	if err != nil {
		return err
	}
	humble()
	log.L.Logger.SetOutput(io.Discard)
	dir := filepath.Join(q.Config.Storage.StateDir, unikernel.Key("", "template"))
	h := &host{group: "template", drivers: map[libvirtConfig]*libvirt.Driver{}}
	driver, err := h.open(ctx, q.Config)
	if err != nil {
		return err
	}
	defer h.Close()
	guest, err := h.Guest(q.Config, driver.Emulated())
	if err != nil {
		return err
	}
	attacher, ok := guest.(template.Guest)
	if !ok {
		return fmt.Errorf("%w: machines of the guest %q boot", unikernel.ErrNotImplemented, guest.Name())
	}
	if q.Machine == nil {
		m, err := template.Lone(*q.Container, guest)
		if err != nil {
			return err
		}
		q.Machine = &m
	}
	maker := template.Maker{
		Machines: driver, Networks: network.Linker{}, Guest: attacher, Store: storeOf(q.Config), Dir: dir,
		BootTimeout: q.Config.Machine.BootTimeout,
	}
	err = maker.Make(ctx, *q.Machine, q.Force)
	if errors.Is(err, states.ErrBusy) && !q.Force {
		return nil // the next machine that boots asks again
	}
	return err
}

// humble makes everybody else come first: processors, and memory when it runs out.
func humble() {
	const nice, expendable = 10, "1000" // oom_score_adj, proc(5)
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, nice)
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte(expendable), 0)
}
