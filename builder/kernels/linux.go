package kernels

import (
	"bytes"
	"errors"
	"io"
)

// LinuxVersion returns the version that a Linux kernel calls itself, such as
// "6.12.117-uni", empty if none is found. It reads all of an uncompressed kernel
// (vmlinux) until it is.
func LinuxVersion(r io.Reader) (string, error) {
	banner := []byte("Linux version ")
	const most = 128 // bytes of banner and version together
	buf := make([]byte, 0, 1<<20)
	for {
		n, err := io.ReadFull(r, buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		for rest := buf; ; {
			i := bytes.Index(rest, banner)
			if i < 0 || (err == nil && len(rest)-i < most) {
				break
			}
			rest = rest[i+len(banner):]
			version, _, found := bytes.Cut(rest[:min(len(rest), most-len(banner))], []byte(" "))
			if found && len(version) > 0 && version[0] >= '0' && version[0] <= '9' {
				return string(version), nil
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return "", nil
		}
		if err != nil {
			return "", err
		}
		// The banner may go on in what comes next.
		buf = buf[:copy(buf, buf[len(buf)-most:])]
	}
}
