package nanos

import (
	"encoding/binary"
	"fmt"

	"containerd-shim-uni/unikernel"
)

// exit returns the program's status once its machine ended.
func exit(end unikernel.End, m unikernel.Watched) (uint32, error) {
	record, err := m.Record()
	if err != nil {
		return 0, fmt.Errorf("%w: exit record: %w", unikernel.ErrUnavailable, err)
	}
	return exitStatus(end, record)
}

// exitStatus returns the program's status from how its machine ended and what
// the kernel left on the disk (klog_dump of Nanos' src/kernel/log.h): "KLOG", a
// boot id of 8 bytes, the status in 4. For a status of 0 it leaves nothing. A
// machine that ended otherwise is ErrUnavailable.
func exitStatus(end unikernel.End, record []byte) (uint32, error) {
	const statusAt, size = 12, 16
	if len(record) >= size && string(record[:4]) == "KLOG" {
		return binary.LittleEndian.Uint32(record[statusAt:]) & 0xff, nil
	}
	if end.Reason != unikernel.EndShutdown {
		return 0, fmt.Errorf("%w: %s %s", unikernel.ErrUnavailable, end.Reason, end.Detail)
	}
	return 0, nil
}
