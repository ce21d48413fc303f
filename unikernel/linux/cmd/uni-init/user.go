package main

import (
	"os"
	"strings"
	"unsafe"

	"containerd-shim-uni/unikernel/linux/wire"

	"golang.org/x/sys/unix"
)

// becomeUser takes the process' user, groups, capabilities and working
// directory. All of it is the calling thread's, so the calls are bare ones.
func becomeUser(p *wire.Process) error {
	last := lastCapability()
	for c := 0; c <= last; c++ {
		if p.Caps.Bounding&(1<<c) == 0 {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil {
				return os.NewSyscallError("drop bounding capability", err)
			}
		}
	}
	if err := ownStdio(p.UID); err != nil {
		return err
	}
	cwdErr := chdir(p.Cwd)
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("keep capabilities", err)
	}
	if err := setIDs(p); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 0, 0, 0, 0); err != nil {
		return os.NewSyscallError("clear keep capabilities", err)
	}
	// Of a directory that root may not enter (a share's), or only the user may.
	if cwdErr != nil {
		cwdErr = chdir(p.Cwd)
	}
	if cwdErr != nil {
		return &failure{codeOf(cwdErr), "chdir to cwd (" + quote(p.Cwd) + ") set in config.json failed: " + cwdErr.Error()}
	}
	return setCaps(p.Caps, last)
}

// codeOf is the class of an error about a path that the caller named.
func codeOf(err error) wire.Code {
	if isErrno(err, unix.ENOENT) {
		return wire.CodeNotFound
	}
	return wire.CodeInvalid
}

func chdir(dir string) error {
	if dir == "" {
		dir = "/"
	}
	return unix.Chdir(dir)
}

func setIDs(p *wire.Process) error {
	var groups unsafe.Pointer
	if len(p.Groups) > 0 {
		groups = unsafe.Pointer(&p.Groups[0])
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(p.Groups)), uintptr(groups), 0); e != 0 {
		return os.NewSyscallError("setgroups", e)
	}
	gid, uid := uintptr(p.GID), uintptr(p.UID)
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, gid, gid, gid); e != 0 {
		return os.NewSyscallError("setgid", e)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); e != 0 {
		return os.NewSyscallError("setuid", e)
	}
	return nil
}

// ownStdio gives the standard descriptors to the process' user, who may then
// open them again as /dev/stdout and the like. /dev/null is everybody's.
func ownStdio(uid uint32) error {
	var null unix.Stat_t
	haveNull := unix.Stat("/dev/null", &null) == nil
	for fd := 0; fd <= 2; fd++ {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return os.NewSyscallError("fstat", err)
		}
		if st.Uid == uid || haveNull && st.Rdev == null.Rdev {
			continue
		}
		if err := unix.Fchown(fd, int(uid), int(st.Gid)); err != nil {
			return os.NewSyscallError("fchown", err)
		}
	}
	return nil
}

// lastCapability is the kernel's highest capability number.
func lastCapability() int {
	for c := 0; c < 63; c++ {
		if _, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0); err != nil {
			return c - 1
		}
	}
	return 62
}

// setCaps sets the effective, permitted, inheritable and ambient sets. A
// capability the kernel does not know is left out.
func setCaps(c wire.Caps, last int) error {
	known := uint64(1)<<(last+1) - 1
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	for i := range data {
		shift := 32 * i
		data[i].Effective = uint32((c.Effective & known) >> shift)
		data[i].Permitted = uint32((c.Permitted & known) >> shift)
		data[i].Inheritable = uint32((c.Inheritable & known) >> shift)
	}
	if err := unix.Capset(&head, &data[0]); err != nil {
		return &failure{wire.CodeInvalid, "unable to apply caps: " + err.Error()}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return os.NewSyscallError("clear ambient capabilities", err)
	}
	for n := 0; n <= last; n++ {
		// One that is not permitted and inheritable cannot be ambient; runc
		// warns and goes on.
		if c.Ambient&(1<<n) != 0 {
			unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(n), 0, 0)
		}
	}
	return nil
}

// environment is the process' environment: of a name set twice the last value
// counts, and HOME comes from the image's /etc/passwd if it is missing.
func environment(env []string, uid uint32) []string {
	at := map[string]int{}
	var out []string
	for _, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		if i, ok := at[name]; ok {
			out[i] = kv
			continue
		}
		at[name] = len(out)
		out = append(out, kv)
	}
	if getenv(out, "HOME") != "" {
		return out
	}
	passwd, _ := os.ReadFile("/etc/passwd")
	home := "HOME=" + homeOf(string(passwd), uid)
	if i, ok := at["HOME"]; ok {
		out[i] = home
		return out
	}
	return append(out, home)
}

func getenv(env []string, name string) string {
	for _, kv := range env {
		if n, v, _ := strings.Cut(kv, "="); n == name {
			return v
		}
	}
	return ""
}

// homeOf finds a user's home directory in passwd(5); unknown users have "/".
func homeOf(passwd string, uid uint32) string {
	for line := range strings.SplitSeq(passwd, "\n") {
		fields := strings.Split(line, ":")
		if len(fields) < 6 {
			continue
		}
		if n, ok := parseUint(fields[2]); ok && n == uid && fields[5] != "" {
			return fields[5]
		}
	}
	return "/"
}
