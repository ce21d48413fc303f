package libvirt

import (
	"errors"
	"fmt"

	lv "libvirt.org/go/libvirt"

	"containerd-shim-uni/unikernel"
)

// code returns libvirt's number of an error, or ERR_OK for another error.
func code(err error) lv.ErrorNumber {
	var e lv.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return lv.ERR_OK
}

// sentinels says what a caller must be able to tell apart. What is not listed
// is a failure without a class.
var sentinels = map[lv.ErrorNumber]error{
	lv.ERR_NO_DOMAIN:             unikernel.ErrNotFound,
	lv.ERR_XML_ERROR:             unikernel.ErrInvalid,
	lv.ERR_XML_DETAIL:            unikernel.ErrInvalid,
	lv.ERR_XML_INVALID_SCHEMA:    unikernel.ErrInvalid,
	lv.ERR_CONFIG_UNSUPPORTED:    unikernel.ErrInvalid,
	lv.ERR_INVALID_ARG:           unikernel.ErrInvalid,
	lv.ERR_NO_CONNECT:            unikernel.ErrUnavailable,
	lv.ERR_INVALID_CONN:          unikernel.ErrUnavailable,
	lv.ERR_OPERATION_TIMEOUT:     unikernel.ErrUnavailable,
	lv.ERR_AUTH_FAILED:           unikernel.ErrUnavailable,
	lv.ERR_AUTH_UNAVAILABLE:      unikernel.ErrUnavailable,
	lv.ERR_OPERATION_UNSUPPORTED: unikernel.ErrNotImplemented,
	lv.ERR_NO_SUPPORT:            unikernel.ErrNotImplemented,
}

// wrap says what failed, gives the error its class and keeps libvirt's words.
func wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	what := fmt.Sprintf(format, args...)
	var e lv.Error
	if !errors.As(err, &e) {
		return fmt.Errorf("%s: %w", what, err)
	}
	if class := sentinels[e.Code]; class != nil {
		return fmt.Errorf("%s: %w: %s", what, class, e.Message)
	}
	if e.Domain == lv.FROM_RPC { // the daemon went away during the call
		return fmt.Errorf("%s: %w: %s", what, unikernel.ErrUnavailable, e.Message)
	}
	return fmt.Errorf("%s: %s", what, e.Message)
}
