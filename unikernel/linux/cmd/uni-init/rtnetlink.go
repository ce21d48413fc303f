package main

import (
	"encoding/binary"
	"os"

	"containerd-shim-uni/unikernel/linux/wire"

	"golang.org/x/sys/unix"
)

// message is a netlink message in the making, netlink(7) and rtnetlink(7). A
// library would make PID 1 twice as large.
type message struct{ b []byte }

func newMessage(kind, flags uint16) *message {
	m := &message{}
	m.uint32(0) // length, set by do
	m.uint16(kind)
	m.uint16(unix.NLM_F_REQUEST | unix.NLM_F_ACK | flags)
	m.uint32(0) // sequence number: one request at a time needs none
	m.uint32(0) // port, set by the kernel
	return m
}

func (m *message) bytes(v ...byte) { m.b = append(m.b, v...) }
func (m *message) uint16(v uint16) { m.b = binary.NativeEndian.AppendUint16(m.b, v) }
func (m *message) uint32(v uint32) { m.b = binary.NativeEndian.AppendUint32(m.b, v) }
func (m *message) pad()            { m.bytes(make([]byte, -len(m.b)&3)...) }
func (m *message) attr32(k uint16, v uint32) {
	m.attr(k, binary.NativeEndian.AppendUint32(nil, v))
}

// attr appends an attribute, aligned to four bytes.
func (m *message) attr(kind uint16, value []byte) {
	m.pad()
	m.uint16(uint16(unix.SizeofRtAttr + len(value)))
	m.uint16(kind)
	m.bytes(value...)
	m.pad()
}

// route is a connection to the kernel's routing tables.
type route struct{ fd int }

func openRoute() (*route, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	return &route{fd}, nil
}

func (c *route) close() { unix.Close(c.fd) }

// do sends a request and waits for the kernel's answer.
func (c *route) do(m *message) error {
	binary.NativeEndian.PutUint32(m.b, uint32(len(m.b)))
	if err := unix.Sendto(c.fd, m.b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("send", err)
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(c.fd, answer, 0)
	if err != nil {
		return os.NewSyscallError("receive", err)
	}
	if n < unix.SizeofNlMsghdr+4 || binary.NativeEndian.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		return &failure{wire.CodeInternal, "the kernel's answer is not understood"}
	}
	if code := int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:])); code != 0 {
		return unix.Errno(-code)
	}
	return nil
}
