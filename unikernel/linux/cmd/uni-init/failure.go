package main

import (
	"os"

	"containerd-shim-uni/unikernel/linux/wire"

	"golang.org/x/sys/unix"
)

// failure is an error with the class that the host shall see.
type failure struct {
	code wire.Code
	text string
}

func (f *failure) Error() string { return f.text }

// replyOf makes an error a reply.
func replyOf(err error) wire.Reply {
	switch e := err.(type) {
	case nil:
		return wire.Reply{}
	case *failure:
		return wire.Reply{Code: e.code, Text: e.text}
	default:
		return wire.Reply{Code: wire.CodeInternal, Text: err.Error()}
	}
}

// wrap puts what was being done in front of an error and keeps its class.
func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	r := replyOf(err)
	return &failure{r.Code, what + ": " + r.Text}
}

// quote puts a name in double quotes as %q does for printable text.
func quote(s string) string {
	b := []byte{'"'}
	const hex = "0123456789abcdef"
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c == '\r':
			b = append(b, '\\', 'r')
		case c < ' ' || c == 0x7f:
			b = append(b, '\\', 'x', hex[c>>4], hex[c&15])
		default:
			b = append(b, c)
		}
	}
	return string(append(b, '"'))
}

// pathError is os.PathError for an errno.
func pathError(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: path, Err: err}
}

// isErrno tells whether err is, or wraps, one of the numbers.
func isErrno(err error, numbers ...unix.Errno) bool {
	switch e := err.(type) {
	case *os.PathError:
		err = e.Err
	case *os.SyscallError:
		err = e.Err
	}
	for _, n := range numbers {
		if err == error(n) {
			return true
		}
	}
	return false
}
