package linux

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"containerd-shim-uni/unikernel"

	"github.com/elastic/go-seccomp-bpf/arch"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

func errno(n uint) *uint { return &n }

// judge runs a filter as the kernel would, for a call with the given arguments.
func judge(t *testing.T, program []byte, call uint32, args ...uint64) uint32 {
	t.Helper()
	var raw []bpf.RawInstruction
	for i := range slices.Chunk(program, 8) {
		raw = append(raw, bpf.RawInstruction{Op: binary.LittleEndian.Uint16(i), Jt: i[2], Jf: i[3], K: binary.LittleEndian.Uint32(i[4:])})
	}
	instructions, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("no program")
	}
	vm, err := bpf.NewVM(instructions)
	if err != nil {
		t.Fatal(err)
	}
	// struct seccomp_data; the virtual machine reads words as they come from a net.
	data := binary.BigEndian.AppendUint32(nil, call)
	data = binary.BigEndian.AppendUint32(data, unix.AUDIT_ARCH_X86_64)
	data = append(data, make([]byte, 8)...)
	for i := range 6 {
		var a uint64
		if i < len(args) {
			a = args[i]
		}
		data = binary.BigEndian.AppendUint32(data, uint32(a))
		data = binary.BigEndian.AppendUint32(data, uint32(a>>32))
	}
	got, err := vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(got)
}

func TestSeccompFilter(t *testing.T) {
	const allow, kill, refused = unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_KILL_PROCESS, unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	arg := func(index uint, op specs.LinuxSeccompOperator, value uint64, two ...uint64) specs.LinuxSeccompArg {
		a := specs.LinuxSeccompArg{Index: index, Op: op, Value: value}
		if len(two) > 0 {
			a.ValueTwo = two[0]
		}
		return a
	}
	rule := func(a specs.LinuxSeccompAction, names []string, args ...specs.LinuxSeccompArg) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: names, Action: a, Args: args}
	}
	// Some 300 names, as profiles have: jumps that are longer than an instruction's.
	var many []string
	for _, name := range []string{"read", "write", "openat", "close", "execve", "clone3", "getpid", "gettid", "brk", "mmap", "futex", "exit", "statx"} {
		many = append(many, name, "no-such-call", "msync")
	}
	for _, name := range slices.Sorted(maps.Keys(arch.X86_64.SyscallNames)) {
		if name != "mount" && name != "ptrace" && name != "socket" && name != "clone" && name != "personality" {
			many = append(many, name)
		}
	}
	type call struct {
		nr   uint32
		args []uint64
		want uint32
	}
	tests := []struct {
		name    string
		profile specs.LinuxSeccomp
		calls   []call
	}{
		{"list of what is allowed", specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{
			rule(specs.ActAllow, many),
			rule(specs.ActAllow, []string{"socket"}, arg(0, specs.OpNotEqual, unix.AF_VSOCK)),
			rule(specs.ActAllow, []string{"clone"}, arg(0, specs.OpMaskedEqual, unix.CLONE_NEWNS|unix.CLONE_NEWUSER, 0)),
			rule(specs.ActAllow, []string{"personality"}, arg(0, specs.OpEqualTo, 0)),
			rule(specs.ActAllow, []string{"personality"}, arg(0, specs.OpEqualTo, 0xffffffff)),
		}}, []call{
			{unix.SYS_READ, nil, allow}, {unix.SYS_STATX, nil, allow}, {unix.SYS_MOUNT, nil, refused}, {unix.SYS_PTRACE, nil, refused},
			{unix.SYS_SOCKET, []uint64{unix.AF_INET}, allow}, {unix.SYS_SOCKET, []uint64{unix.AF_VSOCK}, refused},
			{unix.SYS_SOCKET, []uint64{1<<32 | unix.AF_VSOCK}, allow},
			{unix.SYS_CLONE, []uint64{unix.CLONE_VM}, allow}, {unix.SYS_CLONE, []uint64{unix.CLONE_VM | unix.CLONE_NEWUSER}, refused},
			{unix.SYS_PERSONALITY, []uint64{0}, allow}, {unix.SYS_PERSONALITY, []uint64{8}, refused}, {unix.SYS_PERSONALITY, []uint64{0xffffffff}, allow},
			{1000, nil, enosys}, {0x40000000, nil, enosys}, // newer than the profile; x32
		}},
		{"list of what is refused", specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
			{Names: []string{"mkdir"}, Action: specs.ActErrno, ErrnoRet: errno(30)}, rule(specs.ActKillProcess, []string{"ptrace"}),
			rule(specs.ActErrno, []string{"kill"}, arg(0, specs.OpGreaterThan, 5), arg(1, specs.OpLessEqual, 9)),
			rule(specs.ActErrno, []string{"tkill"}, arg(0, specs.OpLessThan, 5), arg(0, specs.OpGreaterEqual, 9)),
			rule(specs.ActErrno, []string{"madvise"}, arg(2, specs.OpMaskedEqual, 7, 5)),
		}}, []call{
			{unix.SYS_MKDIR, nil, unix.SECCOMP_RET_ERRNO | 30}, {unix.SYS_PTRACE, nil, kill}, {unix.SYS_READ, nil, allow}, {1000, nil, allow},
			{unix.SYS_KILL, []uint64{6, 9}, refused}, {unix.SYS_KILL, []uint64{5, 9}, allow}, {unix.SYS_KILL, []uint64{6, 10}, allow},
			{unix.SYS_TKILL, []uint64{4}, refused}, {unix.SYS_TKILL, []uint64{7}, allow}, {unix.SYS_TKILL, []uint64{9}, refused},
			{unix.SYS_MADVISE, []uint64{0, 0, 5}, refused}, {unix.SYS_MADVISE, []uint64{0, 0, 13}, refused}, {unix.SYS_MADVISE, []uint64{0, 0, 7}, allow}, {unix.SYS_MADVISE, []uint64{0, 0, 1}, allow},
		}},
		{"without conditions wins", specs.LinuxSeccomp{DefaultAction: specs.ActErrno, DefaultErrnoRet: errno(uint(unix.ENOSYS)), Syscalls: []specs.LinuxSyscall{
			rule(specs.ActKill, []string{"kill"}, arg(0, specs.OpEqualTo, 1)), rule(specs.ActAllow, []string{"kill"}),
		}}, []call{{unix.SYS_KILL, []uint64{1}, allow}, {unix.SYS_READ, nil, enosys}}},
		{"nothing", specs.LinuxSeccomp{DefaultAction: specs.ActLog}, []call{{unix.SYS_READ, nil, unix.SECCOMP_RET_LOG}}},
		{"only unknown calls", specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{rule(specs.ActAllow, []string{"no-such-call"})}},
			[]call{{unix.SYS_READ, nil, refused}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			program, _, err := seccompFilter(&tt.profile)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range tt.calls {
				if got := judge(t, program, c.nr, c.args...); got != c.want {
					t.Errorf("call %d with %d: %#x, want %#x", c.nr, c.args, got, c.want)
				}
			}
			t.Logf("%d instructions", len(program)/8)
		})
	}
}

func TestSeccompRefuses(t *testing.T) {
	with := func(c specs.LinuxSyscall) specs.LinuxSeccomp {
		return specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{c}}
	}
	for _, tt := range []struct {
		profile specs.LinuxSeccomp
		want    error
	}{
		{specs.LinuxSeccomp{DefaultAction: specs.ActNotify}, unikernel.ErrNotImplemented},
		{with(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActNotify}), unikernel.ErrNotImplemented},
		{specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"}}, unikernel.ErrNotImplemented},
		{specs.LinuxSeccomp{DefaultAction: "SCMP_ACT_SING"}, unikernel.ErrInvalid},
		{with(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActErrno, ErrnoRet: errno(5000)}), unikernel.ErrInvalid},
		{with(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}}}), unikernel.ErrInvalid},
		{with(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Op: "SCMP_CMP_SONG"}}}), unikernel.ErrInvalid},
		{with(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActErrno, Args: slices.Repeat([]specs.LinuxSeccompArg{{Op: specs.OpEqualTo, Value: 1 << 40}}, 3000)}), unikernel.ErrInvalid},
	} {
		if _, _, err := seccompFilter(&tt.profile); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", fmt.Sprint(tt.profile)[:60], err, tt.want)
		}
	}
}
