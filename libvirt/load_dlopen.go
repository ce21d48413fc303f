//go:build libvirt_dlopen

package libvirt

/*
#cgo LDFLAGS: -ldl
#include <dlfcn.h>
#include <stdlib.h>

// uni_load loads a library for good and returns NULL, or the reason why not,
// which is valid until the thread's next such call.
static const char *uni_load(const char *name) {
	return dlopen(name, RTLD_NOW | RTLD_LOCAL) ? NULL : dlerror();
}
*/
import "C"

import (
	"errors"
	"runtime"
	"unsafe"
)

// dlopen loads a library, or says why it cannot be loaded.
func dlopen(name string) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	c := C.CString(name)
	defer C.free(unsafe.Pointer(c))
	if reason := C.uni_load(c); reason != nil {
		return errors.New(C.GoString(reason))
	}
	return nil
}
