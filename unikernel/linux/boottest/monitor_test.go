package boottest

import (
	"encoding/json"
	"net"
	"testing"
	"time"
)

// monitor is QEMU's (docs/interop/qmp-spec.rst of QEMU).
type monitor struct {
	t    *testing.T
	conn net.Conn
	in   *json.Decoder
	gone map[string]bool // devices of which QEMU said that they are
}

// said is one thing that QEMU says.
type said struct {
	Return, Error *json.RawMessage
	Event         string
	Data          struct{ Device string }
}

func dialMonitor(t *testing.T, socket string) *monitor {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	q := &monitor{t, conn, json.NewDecoder(conn), map[string]bool{}}
	q.do("qmp_capabilities", nil)
	return q
}

// next reads what QEMU says next.
func (q *monitor) next(of string) said {
	q.t.Helper()
	q.conn.SetDeadline(time.Now().Add(bootTimeout))
	var r said
	if err := q.in.Decode(&r); err != nil {
		q.t.Fatalf("%s: %v", of, err)
	}
	if r.Event == "DEVICE_DELETED" && r.Data.Device != "" {
		q.gone[r.Data.Device] = true
	}
	return r
}

// arguments are those of a command.
type arguments map[string]any

// do gives a command and waits until it is done.
func (q *monitor) do(command string, args arguments) {
	q.t.Helper()
	message := arguments{"execute": command}
	if args != nil {
		message["arguments"] = args
	}
	q.conn.SetDeadline(time.Now().Add(bootTimeout)) // the last one may be long past
	if err := json.NewEncoder(q.conn).Encode(message); err != nil {
		q.t.Fatalf("%s: %v", command, err)
	}
	for {
		r := q.next(command)
		if r.Error != nil {
			q.t.Fatalf("%s: %s", command, *r.Error)
		}
		if r.Return != nil {
			return
		}
	}
}

// attach adds a disk to the controller scsi0, at a LUN.
func (q *monitor) attach(serial, file string, lun int, readOnly bool) {
	q.t.Helper()
	q.do("blockdev-add", arguments{"driver": "raw", "node-name": "node-" + serial, "read-only": readOnly,
		"file": arguments{"driver": "file", "filename": file, "locking": "off"}})
	q.do("device_add", arguments{"driver": "scsi-hd", "id": serial, "bus": "scsi0.0", "lun": lun,
		"drive": "node-" + serial, "serial": serial})
}

// detach removes a disk.
func (q *monitor) detach(serial string) {
	q.t.Helper()
	q.do("device_del", arguments{"id": serial})
	for !q.gone[serial] {
		q.next("device_del")
	}
	delete(q.gone, serial)
	q.do("blockdev-del", arguments{"node-name": "node-" + serial})
}
