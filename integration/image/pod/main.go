// Pod does what pods' tests need and busybox cannot:
//
//	pod watch DIR      says what inotify tells of a directory, a name a line
//	pod health ADDRESS answers gRPC's health checks
package main

import (
	"fmt"
	"net"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

func main() {
	if len(os.Args) != 3 {
		fail(fmt.Errorf("usage: %s watch DIR | health ADDRESS", os.Args[0]))
	}
	switch os.Args[1] {
	case "watch":
		fail(watch(os.Args[2]))
	case "health":
		fail(answer(os.Args[2]))
	default:
		fail(fmt.Errorf("there is no %q", os.Args[1]))
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func watch(dir string) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return err
	}
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_DELETE); err != nil {
		return err
	}
	fmt.Println("watching")
	buffer := make([]byte, 64<<10)
	for {
		n, err := unix.Read(fd, buffer)
		if err != nil {
			return err
		}
		for at := 0; at+unix.SizeofInotifyEvent <= n; {
			event := (*unix.InotifyEvent)(unsafe.Pointer(&buffer[at]))
			name := buffer[at+unix.SizeofInotifyEvent:][:event.Len]
			fmt.Println("event", strings.TrimRight(string(name), "\x00"))
			at += unix.SizeofInotifyEvent + int(event.Len)
		}
	}
}

func answer(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	s := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(s, health.NewServer())
	return s.Serve(l)
}
