package linux

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"containerd-shim-uni/unikernel"

	"github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// A specification's seccomp profile becomes a program for the guest's kernel here:
// PID 1 only loads it. It means what libseccomp makes of it for runc.

// seccompActions are the values that a filter's program returns. The errno is in the
// low half.
var seccompActions = map[specs.LinuxSeccompAction]uint32{
	specs.ActKill:        unix.SECCOMP_RET_KILL_THREAD,
	specs.ActKillThread:  unix.SECCOMP_RET_KILL_THREAD,
	specs.ActKillProcess: unix.SECCOMP_RET_KILL_PROCESS,
	specs.ActTrap:        unix.SECCOMP_RET_TRAP,
	specs.ActErrno:       unix.SECCOMP_RET_ERRNO,
	specs.ActTrace:       unix.SECCOMP_RET_TRACE,
	specs.ActAllow:       unix.SECCOMP_RET_ALLOW,
	specs.ActLog:         unix.SECCOMP_RET_LOG,
}

// seccompFlags are those of seccomp(2). There is one thread when the filter is loaded.
var seccompFlags = map[specs.LinuxSeccompFlag]uint64{
	"SECCOMP_FILTER_FLAG_TSYNC":     0,
	specs.LinuxSeccompFlagLog:       unix.SECCOMP_FILTER_FLAG_LOG,
	specs.LinuxSeccompFlagSpecAllow: unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW,
}

const enosys = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)

// maxFilter is how many instructions a filter may have (BPF_MAXINSNS).
const maxFilter = 4096

// seccompFilter makes the program of a profile, as the kernel takes it, and the flags
// that it is loaded with. Without a profile there is none.
func seccompFilter(s *specs.LinuxSeccomp) (program []byte, flags uint64, err error) {
	if s == nil {
		return nil, 0, nil
	}
	for _, f := range s.Flags {
		bit, ok := seccompFlags[f]
		if !ok {
			return nil, 0, refuse("seccomp flag "+fmt.Sprintf("%q", f), "no program of the host can be asked about system calls of a machine")
		}
		flags |= bit
	}
	instructions, err := seccompProgram(s)
	if err != nil {
		return nil, 0, err
	}
	raw, err := bpf.Assemble(instructions)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: seccomp profile: %w", unikernel.ErrInvalid, err)
	}
	if len(raw) > maxFilter {
		return nil, 0, fmt.Errorf("%w: the seccomp profile takes %d instructions, more than %d", unikernel.ErrInvalid, len(raw), maxFilter)
	}
	for _, i := range raw { // struct sock_filter
		program = binary.LittleEndian.AppendUint16(program, i.Op)
		program = append(program, i.Jt, i.Jf)
		program = binary.LittleEndian.AppendUint32(program, i.K)
	}
	return program, flags, nil
}

// SeccompProgram makes the program of a profile for seccomp(2), one that needs no
// flags, on an x86-64 kernel. A profile that cannot be is unikernel.ErrInvalid.
func SeccompProgram(s *specs.LinuxSeccomp) ([]byte, error) {
	program, _, err := seccompFilter(s)
	return program, err
}

func seccompProgram(s *specs.LinuxSeccomp) ([]bpf.Instruction, error) {
	rules, err := seccompRules(s)
	if err != nil {
		return nil, err
	}
	rest, err := seccompAction(s.DefaultAction, s.DefaultErrnoRet)
	if err != nil {
		return nil, err
	}
	program := []bpf.Instruction{bpf.LoadAbsolute{Off: 0, Size: 4}} // the call's number
	if permissive := rest == unix.SECCOMP_RET_ALLOW || rest == unix.SECCOMP_RET_LOG; !permissive {
		// A call that is newer than the profile is one that the kernel does not
		// know: programs then do without, which they do not after EPERM.
		program = append(program,
			bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: newest(s), SkipFalse: 1},
			bpf.RetConstant{Val: enosys})
	}
	if len(rules) == 0 {
		return append(program, bpf.RetConstant{Val: rest}), nil
	}
	policy := seccomp.Policy{DefaultAction: seccomp.ActionAllow, Syscalls: rules}
	filter, err := policy.Assemble()
	if err != nil {
		return nil, fmt.Errorf("%w: seccomp profile: %w", unikernel.ErrInvalid, err)
	}
	filter[len(filter)-1] = bpf.RetConstant{Val: rest} // the package knows no other errno than EPERM
	return append(program, filter...), nil
}

// newest is the highest number of a call that the profile names.
func newest(s *specs.LinuxSeccomp) uint32 {
	highest := 0
	for _, call := range s.Syscalls {
		for _, name := range call.Names {
			highest = max(highest, arch.X86_64.SyscallNames[name])
		}
	}
	return uint32(highest)
}

// seccompRules are the profile's, those of calls without conditions first: they win.
// What does as the default does, and calls that the kernel does not have, is left out.
func seccompRules(s *specs.LinuxSeccomp) ([]seccomp.SyscallGroup, error) {
	var plain, conditional []seccomp.SyscallGroup
	done := map[string]bool{} // has a rule without conditions
	rest, err := seccompAction(s.DefaultAction, s.DefaultErrnoRet)
	if err != nil {
		return nil, err
	}
	for _, call := range s.Syscalls {
		action, err := seccompAction(call.Action, call.ErrnoRet)
		if err != nil {
			return nil, err
		}
		sets, err := seccompConditions(call.Args)
		if err != nil {
			return nil, err
		}
		for _, name := range call.Names {
			if _, known := arch.X86_64.SyscallNames[name]; !known || action == rest || done[name] {
				continue
			}
			if len(sets) == 0 {
				done[name] = true
				g := groupOf(&plain, action)
				g.Names = append(g.Names, name)
			}
			for _, set := range sets {
				g := groupOf(&conditional, action)
				g.NamesWithCondtions = append(g.NamesWithCondtions, seccomp.NameWithConditions{Name: name, Conditions: set})
			}
		}
	}
	for i := range conditional {
		g := &conditional[i]
		g.NamesWithCondtions = slices.DeleteFunc(g.NamesWithCondtions, func(n seccomp.NameWithConditions) bool { return done[n.Name] })
	}
	return append(plain, conditional...), nil
}

// groupOf returns the group of rules with an action, which it adds if there is none.
func groupOf(groups *[]seccomp.SyscallGroup, action uint32) *seccomp.SyscallGroup {
	for i := range *groups {
		if (*groups)[i].Action == seccomp.Action(action) {
			return &(*groups)[i]
		}
	}
	*groups = append(*groups, seccomp.SyscallGroup{Action: seccomp.Action(action)})
	return &(*groups)[len(*groups)-1]
}

func seccompAction(a specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	if a == specs.ActNotify {
		return 0, refuse("seccomp action "+string(a), "no program of the host can be asked about system calls of a machine")
	}
	value, ok := seccompActions[a]
	if !ok {
		return 0, fmt.Errorf("%w: seccomp action %q", unikernel.ErrInvalid, a)
	}
	if a != specs.ActErrno && a != specs.ActTrace {
		return value, nil
	}
	if errno == nil {
		return value | uint32(unix.EPERM), nil
	}
	if *errno > 4095 { // MAX_ERRNO
		return 0, fmt.Errorf("%w: seccomp: errno %d", unikernel.ErrInvalid, *errno)
	}
	return value | uint32(*errno), nil
}

// seccompConditions returns sets of which one must hold: all conditions make one,
// but each its own where two are about one argument.
func seccompConditions(args []specs.LinuxSeccompArg) ([]seccomp.ArgumentConditions, error) {
	var all seccomp.ArgumentConditions
	var each []seccomp.ArgumentConditions
	seen := map[uint]bool{}
	twice := false
	for _, a := range args {
		if a.Index > 5 {
			return nil, fmt.Errorf("%w: seccomp: argument %d of a system call, which has 6", unikernel.ErrInvalid, a.Index)
		}
		conditions, err := seccompCondition(a)
		if err != nil {
			return nil, err
		}
		twice = twice || seen[a.Index]
		seen[a.Index] = true
		all = append(all, conditions...)
		each = append(each, conditions)
	}
	switch {
	case twice:
		return each, nil
	case len(args) > 0:
		return []seccomp.ArgumentConditions{all}, nil
	}
	return nil, nil
}

var seccompOperations = map[specs.LinuxSeccompOperator]seccomp.Operation{
	specs.OpNotEqual: seccomp.NotEqual, specs.OpLessThan: seccomp.LessThan, specs.OpLessEqual: seccomp.LessOrEqual,
	specs.OpEqualTo: seccomp.Equal, specs.OpGreaterEqual: seccomp.GreaterOrEqual, specs.OpGreaterThan: seccomp.GreaterThan,
}

// seccompCondition returns conditions that together are one of the profile's.
func seccompCondition(a specs.LinuxSeccompArg) (seccomp.ArgumentConditions, error) {
	index := uint32(a.Index)
	if op, ok := seccompOperations[a.Op]; ok {
		return seccomp.ArgumentConditions{{Argument: index, Operation: op, Value: a.Value}}, nil
	}
	if a.Op != specs.OpMaskedEqual {
		return nil, fmt.Errorf("%w: seccomp operator %q", unikernel.ErrInvalid, a.Op)
	}
	// Value is the mask, ValueTwo what is left with it.
	mask, want := a.Value, a.ValueTwo
	if want&^mask != 0 {
		return nil, errors.Join(unikernel.ErrInvalid, fmt.Errorf("seccomp: no argument is %#x with the mask %#x", want, mask))
	}
	var set seccomp.ArgumentConditions
	for bit := uint64(1); bit != 0; bit <<= 1 {
		if want&bit != 0 {
			set = append(set, seccomp.Condition{Argument: index, Operation: seccomp.BitsSet, Value: bit})
		}
	}
	return append(set, seccomp.Condition{Argument: index, Operation: seccomp.BitsNotSet, Value: mask &^ want}), nil
}
