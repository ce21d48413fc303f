package libvirt

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	lv "libvirt.org/go/libvirt"
)

// saveTimeout bounds Save. A state of 35 MB, that of a guest which has just booted in
// 256 MiB, takes 30 to 200 ms.
const saveTimeout = time.Minute

// saveLook is the pause between two looks how far QEMU is.
const saveLook = 2 * time.Millisecond

// asFile is QEMU's name for the file that a state goes to or comes from. QEMU is given
// the open file: its user need not have it, and a child of its own, which the sandbox
// forbids, is not needed.
const asFile = "uni-state"

// Save stops a machine and writes its state to a file, from the file's beginning. The
// machine can then only be destroyed. It is for machines without a share: QEMU saves no
// virtiofs.
func (d *Driver) Save(ctx context.Context, name string, to *os.File) error {
	ctx, cancel := context.WithTimeout(ctx, saveTimeout)
	defer cancel()
	return d.each(ctx, name, "save", func(dom *lv.Domain) error {
		if err := dom.Suspend(); err != nil {
			return err
		}
		if err := getfd(dom, to); err != nil {
			return err
		}
		commands := []string{
			// The most that QEMU takes: what is sent to nobody need not be slow.
			`{"execute": "migrate-set-parameters", "arguments": {"max-bandwidth": 9223372036853727232}}`,
			`{"execute": "migrate", "arguments": {"uri": "fd:` + asFile + `"}}`,
		}
		for _, c := range commands {
			if err := monitorCommand(dom, c, nil); err != nil {
				return err
			}
		}
		return poll(ctx, func() (done bool, err error) {
			var m struct {
				Status string
				Error  string `json:"error-desc"`
			}
			if err := monitorCommand(dom, `{"execute": "query-migrate"}`, &m); err != nil {
				return false, err
			}
			if m.Status == "failed" || m.Status == "cancelled" {
				return false, fmt.Errorf("QEMU does not save it: %s", m.Error)
			}
			return m.Status == "completed", nil
		})
	})
}

// load has a machine that was just made take over the state in a file.
func (d *Driver) load(ctx context.Context, name, path string) error {
	state, err := os.Open(path)
	if err != nil {
		return err
	}
	defer state.Close()
	return d.each(ctx, name, "load", func(dom *lv.Domain) error {
		if err := getfd(dom, state); err != nil {
			return err
		}
		if err := monitorCommand(dom, `{"execute": "migrate-incoming", "arguments": {"uri": "fd:`+asFile+`"}}`, nil); err != nil {
			return err
		}
		// A state that does not fit, or is not whole, ends QEMU 7.2.
		return poll(ctx, func() (done bool, err error) {
			var s struct{ Status string }
			if err := monitorCommand(dom, `{"execute": "query-status"}`, &s); err != nil {
				return false, err
			}
			return s.Status != "inmigrate", nil
		})
	})
}

// poll calls look until it is done or fails, or ctx ends.
func poll(ctx context.Context, look func() (done bool, err error)) error {
	ticker := time.NewTicker(saveLook)
	defer ticker.Stop()
	for {
		if done, err := look(); done || err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// getfd hands QEMU an open file.
func getfd(dom *lv.Domain, f *os.File) error {
	answer, _, err := dom.QemuMonitorCommandWithFiles(`{"execute": "getfd", "arguments": {"fdname": "`+asFile+`"}}`,
		[]os.File{*f}, lv.DOMAIN_QEMU_MONITOR_COMMAND_DEFAULT)
	if err != nil {
		return err
	}
	return readAnswer(answer, nil)
}

// monitorCommand asks QEMU by its own protocol and decodes what it returns.
func monitorCommand(dom *lv.Domain, command string, result any) error {
	answer, err := dom.QemuMonitorCommand(command, lv.DOMAIN_QEMU_MONITOR_COMMAND_DEFAULT)
	if err != nil {
		return err
	}
	return readAnswer(answer, result)
}

func readAnswer(answer string, result any) error {
	var a struct {
		Return json.RawMessage
		Error  *struct{ Desc string }
	}
	if err := json.Unmarshal([]byte(answer), &a); err != nil {
		return fmt.Errorf("QEMU's answer: %w", err)
	}
	if a.Error != nil {
		return fmt.Errorf("QEMU says: %s", a.Error.Desc)
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(a.Return, result)
}
