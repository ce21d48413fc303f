package kvm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrUnusable is wrapped by every error of Probe but those of opening the
// device.
var ErrUnusable = errors.New("KVM is there but cannot run a guest")

// Device is the path of KVM's device.
const Device = "/dev/kvm"

// budget is the processor time for the whole probe program. A processor with
// virtualization takes about 5 ms, also nested; instruction by instruction in
// software it is seconds. Time on the clock would count what a busy host gives
// to others.
const budget = 500 * time.Millisecond

// patience is how long the program may take on the clock, with all that is
// done before it twice as long: only a KVM that hangs needs it.
const patience = 10 * time.Second

// Probe runs the probe program on the KVM behind device. Nil means that it can
// run a guest. It takes some milliseconds, where KVM is slow about a second,
// and at most 20 seconds.
func Probe(device string) error {
	dev, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	// The goroutine ends with the vCPU. One that cannot even be interrupted
	// keeps its thread and file, and Probe answers without it.
	go func() {
		defer dev.Close()
		done <- run(dev)
	}()
	select {
	case err = <-done:
	case <-time.After(2 * patience):
		err = fmt.Errorf("the virtual CPU does not stop within %v", 2*patience)
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %w", device, ErrUnusable, err)
	}
	return nil
}

// ioctl numbers of linux/kvm.h.
const (
	getAPIVersion       = 0xae00
	createVM            = 0xae01
	getVCPUMmapSize     = 0xae04
	getSupportedCPUID   = 0xc008ae05
	createVCPU          = 0xae41
	setUserMemoryRegion = 0x4020ae46
	setTSSAddr          = 0xae47
	runVCPU             = 0xae80
	getRegs             = 0x8090ae81
	setRegs             = 0x4090ae82
	getSregs            = 0x8138ae83
	setSregs            = 0x4138ae84
	setCPUID2           = 0x4008ae90

	apiVersion = 12
	exitHLT    = 5
	tssAddr    = 0xfffbd000 // below the firmware's area, where QEMU has it
)

// The kernel's structures; a field that is named but not used here is the
// kernel's all the same.

type regs struct {
	RAX, RBX, RCX, RDX, RSI, RDI, RSP, RBP uint64
	R8, R9, R10, R11, R12, R13, R14, R15   uint64
	RIP, RFlags                            uint64
}

type segment struct {
	Base                         uint64
	Limit                        uint32
	Selector                     uint16
	Type, Present, DPL, DB, S, L uint8
	G, AVL, Unusable, _          uint8
}

type table struct {
	Base  uint64
	Limit uint16
	_     [3]uint16
}

type sregs struct {
	CS, DS, ES, FS, GS, SS, TR, LDT         segment
	GDT, IDT                                table
	CR0, CR2, CR3, CR4, CR8, EFER, APICBase uint64
	InterruptBitmap                         [4]uint64
}

type memoryRegion struct {
	Slot, Flags       uint32
	Guest, Size, Host uint64
}

type cpuid struct {
	Count, _ uint32
	Entries  [256][10]uint32
}

// runArea is the start of struct kvm_run.
type runArea struct {
	_          [8]uint8
	exitReason uint32
}

func ioctl(fd int, request, arg uintptr) (int, error) {
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, arg)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

func ioctlp[T any](fd int, request uintptr, arg *T) error {
	_, err := ioctl(fd, request, uintptr(unsafe.Pointer(arg)))
	runtime.KeepAlive(arg)
	return err
}

// run makes a virtual machine with one CPU, lets it run the program and
// judges the end.
func run(dev *os.File) error {
	kvm := int(dev.Fd())
	if v, err := ioctl(kvm, getAPIVersion, 0); err != nil || v != apiVersion {
		return fmt.Errorf("API version %d, not %d: %w", v, apiVersion, err)
	}
	vm, err := ioctl(kvm, createVM, 0)
	if err != nil {
		return fmt.Errorf("create a virtual machine: %w", err)
	}
	defer unix.Close(vm)
	memory, err := unix.Mmap(-1, 0, memorySize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return err
	}
	defer unix.Munmap(memory)
	load(memory)
	if _, err := ioctl(vm, setTSSAddr, tssAddr); err != nil {
		return fmt.Errorf("set the TSS address: %w", err)
	}
	region := memoryRegion{Size: memorySize, Host: uint64(uintptr(unsafe.Pointer(&memory[0])))}
	if err := ioctlp(vm, setUserMemoryRegion, &region); err != nil {
		return fmt.Errorf("give it memory: %w", err)
	}
	vcpu, err := ioctl(vm, createVCPU, 0)
	if err != nil {
		return fmt.Errorf("create a virtual CPU: %w", err)
	}
	defer unix.Close(vcpu)
	if err := prepare(kvm, vcpu); err != nil {
		return err
	}
	size, err := ioctl(kvm, getVCPUMmapSize, 0)
	if err != nil {
		return err
	}
	shared, err := unix.Mmap(vcpu, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the virtual CPU: %w", err)
	}
	defer unix.Munmap(shared)
	reason, err := execute(vcpu, shared)
	if err != nil {
		return err
	}
	var r regs
	if err := ioctlp(vcpu, getRegs, &r); err != nil {
		return err
	}
	if reason != exitHLT || r.RAX != success {
		return fmt.Errorf("the probe program ended at %#x with exit reason %d", r.RIP, reason)
	}
	return nil
}

// prepare gives the CPU its features and the state in which PVH starts a
// kernel: flat 32-bit protected mode without paging.
func prepare(kvm, vcpu int) error {
	features := &cpuid{Count: uint32(len(cpuid{}.Entries))}
	if err := ioctlp(kvm, getSupportedCPUID, features); err != nil {
		return fmt.Errorf("get the CPU's features: %w", err)
	}
	if err := ioctlp(vcpu, setCPUID2, features); err != nil {
		return fmt.Errorf("set the CPU's features: %w", err)
	}
	var s sregs
	if err := ioctlp(vcpu, getSregs, &s); err != nil {
		return fmt.Errorf("get system registers: %w", err)
	}
	flat := segment{Limit: 0xffffffff, Present: 1, DB: 1, S: 1, G: 1}
	s.CS, s.DS = flat, flat
	s.CS.Selector, s.CS.Type = 0x10, 0xb // execute, read, accessed
	s.DS.Selector, s.DS.Type = 0x18, 0x3 // read, write, accessed
	s.ES, s.FS, s.GS, s.SS = s.DS, s.DS, s.DS, s.DS
	s.GDT = table{Base: gdtAt, Limit: 4*8 - 1}
	s.CR0 = 0x11 // PE, ET
	if err := ioctlp(vcpu, setSregs, &s); err != nil {
		return fmt.Errorf("set system registers: %w", err)
	}
	r := regs{RIP: code32At, RFlags: 2}
	if err := ioctlp(vcpu, setRegs, &r); err != nil {
		return fmt.Errorf("set registers: %w", err)
	}
	return nil
}

// execute runs the CPU until it exits, and no longer than the budget: then a
// signal, one that Go's runtime takes and ignores, ends KVM_RUN.
func execute(vcpu int, shared []byte) (uint32, error) {
	area := (*runArea)(unsafe.Pointer(&shared[0]))
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	late, done := watch(unix.Gettid(), budget, patience)
	defer done()
	for {
		_, err := ioctl(vcpu, runVCPU, 0)
		switch {
		case late() != nil:
			return 0, fmt.Errorf("the probe program did not end: %w", late())
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, fmt.Errorf("run the virtual CPU: %w", err)
		default:
			return area.exitReason, nil
		}
	}
}

// watch sends signals to a thread of this process, from when it has used its
// budget of processor time, or its patience is over, until done is called. Late
// says which it was, nil before.
func watch(tid int, budget, patience time.Duration) (late func() error, done func()) {
	var reason atomic.Value // an error
	late = func() error {
		err, _ := reason.Load().(error)
		return err
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	began, end := cpuTime(tid), time.Now().Add(patience)
	go func() {
		defer close(stopped)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			switch {
			case late() != nil: // the signal before came too early
			case cpuTime(tid)-began > budget:
				reason.Store(fmt.Errorf("%v of processor time were not enough", budget))
			case time.Now().After(end):
				reason.Store(fmt.Errorf("%v have passed", patience))
			default:
				continue
			}
			unix.Tgkill(os.Getpid(), tid, unix.SIGURG)
		}
	}()
	return late, func() { close(stop); <-stopped }
}

// cpuTime is the processor time of a thread of this process, in guests too. Its
// clock's number is that of pthread_getcpuclockid: the complement of the
// thread's, then 4 for one thread and 2 for what the scheduler counts.
func cpuTime(tid int) time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^tid<<3|4|2), &t); err != nil {
		return 0 // patience bounds it
	}
	return time.Duration(t.Nano())
}

// Guest-physical addresses of the probe's parts.
const (
	memorySize = 0x10000
	code32At   = 0x1000
	code64At   = 0x1100
	pml4At     = 0x2000
	pdptAt     = 0x3000
	pdAt       = 0x4000
	gdtAt      = 0x5000

	success = 0x600d // in rax at the end
)

// load writes tables and program into the guest's memory.
func load(memory []byte) {
	le := binary.LittleEndian
	le.PutUint64(memory[pml4At:], pdptAt|0x3) // present, writable
	le.PutUint64(memory[pdptAt:], pdAt|0x3)
	le.PutUint64(memory[pdAt:], 0x83) // the first 2 MiB as one page
	for i, d := range []uint64{0, 0x00af9b000000ffff /* code, 64 bit */, 0x00cf9b000000ffff /* code, 32 bit */, 0x00cf93000000ffff /* data */} {
		le.PutUint64(memory[gdtAt+8*i:], d)
	}
	copy(memory[code32At:], code32)
	copy(memory[code64At:], code64)
}

var code32 = []byte{
	0x0f, 0x20, 0xe0, // mov %cr4,%eax
	0x0d, 0x20, 0x06, 0x00, 0x00, // or $0x620,%eax: PAE and SSE
	0x0f, 0x22, 0xe0, // mov %eax,%cr4
	0xb8, 0x00, 0x20, 0x00, 0x00, // mov $pml4At,%eax
	0x0f, 0x22, 0xd8, // mov %eax,%cr3
	0xb9, 0x80, 0x00, 0x00, 0xc0, // mov $0xc0000080,%ecx: EFER
	0x0f, 0x32, // rdmsr
	0x0d, 0x00, 0x01, 0x00, 0x00, // or $0x100,%eax: long mode
	0x0f, 0x30, // wrmsr
	0x0f, 0x20, 0xc0, // mov %cr0,%eax
	0x0d, 0x00, 0x00, 0x00, 0x80, // or $0x80000000,%eax: paging
	0x0f, 0x22, 0xc0, // mov %eax,%cr0
	0xea, 0x00, 0x11, 0x00, 0x00, 0x08, 0x00, // ljmp $8,$code64At
}

var code64 = []byte{
	0xbf, 0x00, 0x60, 0x00, 0x00, // mov $0x6000,%edi: 16 zero bytes
	0x31, 0xc0, // xor %eax,%eax
	0x31, 0xd2, // xor %edx,%edx
	0xbb, 0x11, 0x00, 0x00, 0x00, // mov $0x11,%ebx
	0xb9, 0x22, 0x00, 0x00, 0x00, // mov $0x22,%ecx
	0xf0, 0x48, 0x0f, 0xc7, 0x0f, // lock cmpxchg16b (%rdi)
	0x75, 0x26, // jne fail
	0x48, 0x83, 0x3f, 0x11, // cmpq $0x11,(%rdi)
	0x75, 0x20, // jne fail
	0x66, 0x0f, 0x6e, 0xc3, // movd %ebx,%xmm0
	0x66, 0x0f, 0xfe, 0xc0, // paddd %xmm0,%xmm0
	0x66, 0x0f, 0x7e, 0xc0, // movd %xmm0,%eax
	0x83, 0xf8, 0x22, // cmp $0x22,%eax
	0x75, 0x0f, // jne fail
	0xb9, 0x00, 0x09, 0x3d, 0x00, // mov $4000000,%ecx
	0xff, 0xc9, // loop: dec %ecx
	0x75, 0xfc, // jne loop
	0xb8, 0x0d, 0x60, 0x00, 0x00, // mov $success,%eax
	0xf4,       // hlt
	0x31, 0xc0, // fail: xor %eax,%eax
	0xf4, // hlt
}
