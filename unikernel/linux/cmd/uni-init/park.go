package main

import (
	"os"
	"runtime/debug"
	"strings"
	"time"
	"unsafe"

	"containerd-shim-uni/unikernel/linux/wire"

	"golang.org/x/sys/unix"
)

// parked is what a parked machine has let go of, to be taken up when it wakes: by
// then it may be another machine, with devices of its own in the same places.
type parked struct {
	devices []transport
	over    *time.Timer
}

// parkedMost is how long a machine stays parked: who parks it saves it within seconds,
// and who goes on from it wakes it within milliseconds. Another one is nobody's.
const parkedMost = time.Minute

// transport is the device of a bus by which a virtio device is reached. Bound to its
// driver anew, the virtio device is reset and looked at as if it had just been found:
// an address or a size is then that of the machine that it is in.
type transport struct{ driver, name string }

func (t transport) write(file string) error {
	return os.WriteFile(t.driver+"/"+file, []byte(t.name), 0)
}

// own are the kinds of virtio devices that are a machine's own, as sysfs writes them:
// network and block (virtio 1.2, 5).
var own = map[string]bool{"0x0001": true, "0x0002": true}

// transports finds those of the devices that are a machine's own. sys is where sysfs
// is mounted.
func transports(sys string) ([]transport, error) {
	devices := sys + "/bus/virtio/devices/"
	entries, err := os.ReadDir(devices)
	if err != nil {
		return nil, err
	}
	var list []transport
	for _, e := range entries {
		kind, err := os.ReadFile(devices + e.Name() + "/device")
		if err != nil {
			return nil, err
		}
		if !own[trimLine(kind)] {
			continue
		}
		// …/devices/platform/LNRO0005:03/virtio3, and its …/bus/platform/drivers/virtio-mmio
		device, err := os.Readlink(devices + e.Name())
		if err != nil {
			return nil, err
		}
		driver, err := os.Readlink(devices + e.Name() + "/../driver")
		if err != nil {
			return nil, err
		}
		way, at := strings.Split(device, "/"), strings.LastIndex(driver, "/bus/")
		if len(way) < 2 || at < 0 {
			return nil, pathError("find the driver of", device, unix.EINVAL)
		}
		list = append(list, transport{sys + driver[at:], way[len(way)-2]})
	}
	return list, nil
}

func (s *server) isParked() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.parked != nil
}

// park makes the machine one from which others can go on. It has nothing yet that
// is its own but devices.
func (s *server) park() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asked {
		return errAsked
	}
	if s.parked != nil {
		return &failure{wire.CodeInvalid, "the machine is parked already"}
	}
	devices, err := transports("/sys")
	if err != nil {
		return wrap("park", err)
	}
	for _, d := range devices {
		if err := d.write("unbind"); err != nil {
			return wrap("park", err)
		}
	}
	debug.FreeOSMemory() // what is not there need not be saved
	s.parked = &parked{devices, time.AfterFunc(parkedMost, func() {
		console("nobody wakes the machine")
		powerOff()
	})}
	return nil
}

// wake makes the machine one of its own. What is random comes first.
func (s *server) wake(w *wire.Wake) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.parked == nil {
		return &failure{wire.CodeInvalid, "the machine is not parked"}
	}
	if !s.parked.over.Stop() {
		return &failure{wire.CodeInternal, "the machine ends"}
	}
	if err := reseed(w.Entropy[:]); err != nil {
		return wrap("wake", err)
	}
	for _, d := range s.parked.devices {
		if err := d.write("bind"); err != nil {
			return wrap("wake", err)
		}
	}
	s.parked = nil
	return nil
}

// Requests of random(4).
const (
	rndAddEntropy = 0x40085203 // _IOW('R', 0x03, int [2])
	rndReseedCRNG = 0x5207     // _IO('R', 0x07)
)

// reseed makes what the kernel draws from now on depend on entropy: what it drew so
// far every machine does that goes on from the same state. Without the second request
// it would take up the first within a minute.
func reseed(entropy []byte) error {
	fd, err := unix.Open("/dev/urandom", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return pathError("open", "/dev/urandom", err)
	}
	defer unix.Close(fd)
	var info struct {
		bits, size int32
		data       [wire.EntropySize]byte
	}
	info.size = int32(copy(info.data[:], entropy))
	info.bits = info.size * 8
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), rndAddEntropy, uintptr(unsafe.Pointer(&info))); errno != 0 {
		return os.NewSyscallError("add entropy", errno)
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), rndReseedCRNG, 0); errno != 0 {
		return os.NewSyscallError("reseed", errno)
	}
	return nil
}
