package inside

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// ErrKilled says that a system call ended the process.
var ErrKilled = errors.New("the process was ended for it")

// Process is a process whose first thread is stopped between Attach and Detach.
// Its methods are for the goroutine that attached, which keeps its thread meanwhile.
type Process struct {
	pid     int
	mem     *os.File
	saved   unix.PtraceRegs
	syscall uint64 // address of a syscall instruction
}

// Attach stops a process, as a debugger does.
func Attach(pid int) (p *Process, err error) {
	runtime.LockOSThread() // the kernel knows one thread as the debugger
	defer func() {
		if err != nil {
			runtime.UnlockOSThread()
		}
	}()
	if err := unix.PtraceAttach(pid); err != nil {
		return nil, fmt.Errorf("attach to %d: %w", pid, err)
	}
	p = &Process{pid: pid}
	if err := p.begin(); err != nil {
		return nil, errors.Join(err, p.Detach())
	}
	return p, nil
}

func (p *Process) begin() (err error) {
	if err := p.await(); err != nil {
		return err
	}
	if err := unix.PtraceGetRegs(p.pid, &p.saved); err != nil {
		return err
	}
	if p.mem, err = os.OpenFile("/proc/"+strconv.Itoa(p.pid)+"/mem", os.O_RDWR, 0); err != nil {
		return err
	}
	p.syscall, err = p.findSyscall()
	return err
}

// await returns when the process has stopped.
func (p *Process) await() error {
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(p.pid, &status, unix.WALL, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		case status.Signaled() || status.Exited():
			return fmt.Errorf("%w: %v", ErrKilled, status.Signal())
		case status.Stopped():
			return nil
		}
	}
}

// findSyscall finds an instruction in the kernel's own part of the program.
func (p *Process) findSyscall() (uint64, error) {
	maps, err := os.ReadFile("/proc/" + strconv.Itoa(p.pid) + "/maps")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(maps)) {
		var from, to uint64
		if !strings.HasSuffix(line, "[vdso]\n") {
			continue
		}
		if _, err := fmt.Sscanf(line, "%x-%x", &from, &to); err != nil {
			return 0, err
		}
		code := make([]byte, to-from)
		if _, err := p.mem.ReadAt(code, int64(from)); err != nil {
			return 0, err
		}
		if at := bytes.Index(code, []byte{0x0f, 0x05}); at >= 0 {
			return from + uint64(at), nil
		}
	}
	return 0, errors.New("no syscall instruction in the vdso")
}

// Detach lets the process go on where it was.
func (p *Process) Detach() error {
	defer runtime.UnlockOSThread()
	if p.mem != nil {
		p.mem.Close()
		if err := unix.PtraceSetRegs(p.pid, &p.saved); err != nil {
			return err
		}
	}
	return unix.PtraceDetach(p.pid)
}

// Call does a system call in the process. Its arguments are numbers, and strings and
// bytes, which are put on its stack with a zero behind them. ErrKilled says that the
// call ended the process.
func (p *Process) Call(number uintptr, args ...any) (uint64, error) {
	regs := p.saved
	at := (regs.Rsp - 1<<14) &^ 15 // below what it uses (the red zone has 128 bytes)
	var values [6]uint64
	for i, a := range args {
		var data []byte
		switch a := a.(type) {
		case int:
			values[i] = uint64(a)
			continue
		case string:
			data = append([]byte(a), 0)
		case []byte:
			data = append(bytes.Clone(a), 0)
		default:
			return 0, fmt.Errorf("an argument of type %T", a)
		}
		if _, err := p.mem.WriteAt(data, int64(at)); err != nil {
			return 0, err
		}
		values[i] = at
		at += uint64(len(data)+15) &^ 15
	}
	regs.Rip, regs.Rax, regs.Orig_rax = p.syscall, uint64(number), ^uint64(0)
	regs.Rdi, regs.Rsi, regs.Rdx, regs.R10, regs.R8, regs.R9 = values[0], values[1], values[2], values[3], values[4], values[5]
	if err := unix.PtraceSetRegs(p.pid, &regs); err != nil {
		return 0, err
	}
	if err := unix.PtraceSingleStep(p.pid); err != nil {
		return 0, err
	}
	if err := p.await(); err != nil {
		return 0, err
	}
	if err := unix.PtraceGetRegs(p.pid, &regs); err != nil {
		return 0, err
	}
	if result := int64(regs.Rax); result < 0 && result > -4096 {
		return 0, syscall.Errno(-result)
	}
	return regs.Rax, nil
}

// Filter is what seccomp(2) keeps a process from.
type Filter []*bpf.VM

const (
	ptraceGetFilter = 0x420c // PTRACE_SECCOMP_GET_FILTER
	auditArch       = 0xc000003e
	maxInstructions = 4096 // BPF_MAXINSNS
)

// Filter reads the process's filters from the kernel.
func (p *Process) Filter() (Filter, error) {
	var filters Filter
	for {
		raw := make([]unix.SockFilter, maxInstructions)
		n, _, errno := syscall.Syscall6(unix.SYS_PTRACE, ptraceGetFilter, uintptr(p.pid), uintptr(len(filters)), uintptr(unsafe.Pointer(&raw[0])), 0, 0)
		if errno == unix.ENOENT && len(filters) > 0 {
			return filters, nil
		}
		if errno != 0 {
			return nil, fmt.Errorf("filter %d: %w", len(filters), errno)
		}
		var program []bpf.Instruction
		for _, i := range raw[:n] {
			program = append(program, bpf.RawInstruction{Op: i.Code, Jt: i.Jt, Jf: i.Jf, K: i.K}.Disassemble())
		}
		vm, err := bpf.NewVM(program)
		if err != nil {
			return nil, err
		}
		filters = append(filters, vm)
	}
}

// Allows tells whether a system call is let through.
func (f Filter) Allows(number uint32, args ...uint64) (bool, error) {
	// struct seccomp_data. The kernel loads words of the processor, the package those
	// of a network.
	data := binary.BigEndian.AppendUint32(nil, number)
	data = binary.BigEndian.AppendUint32(data, auditArch)
	data = append(data, make([]byte, 8)...)
	for i := range 6 {
		var a uint64
		if i < len(args) {
			a = args[i]
		}
		data = binary.BigEndian.AppendUint32(data, uint32(a))
		data = binary.BigEndian.AppendUint32(data, uint32(a>>32))
	}
	for _, vm := range f {
		verdict, err := vm.Run(data)
		if err != nil {
			return false, err
		}
		if action := uint32(verdict) & unix.SECCOMP_RET_ACTION_FULL; action != unix.SECCOMP_RET_ALLOW && action != unix.SECCOMP_RET_LOG {
			return false, nil
		}
	}
	return true, nil
}
