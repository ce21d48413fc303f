// Command watch prints what inotify tells of the paths that it is given.
package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"syscall"
)

func main() {
	fd, err := syscall.InotifyInit()
	paths := map[int]string{}
	for _, path := range os.Args[1:] {
		var id int
		if err == nil {
			id, err = syscall.InotifyAddWatch(fd, path, syscall.IN_MODIFY|syscall.IN_MOVED_TO|syscall.IN_CREATE)
			paths[id] = path
		}
	}
	fmt.Println("watching", err)
	for buf := make([]byte, 4096); ; {
		n, err := syscall.Read(fd, buf)
		if err != nil {
			fmt.Println(err)
			return
		}
		for b := buf[:n]; len(b) > 0; {
			end := syscall.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
			fmt.Println(paths[int(binary.NativeEndian.Uint32(b))], strings.TrimRight(string(b[syscall.SizeofInotifyEvent:end]), "\x00"))
			b = b[end:]
		}
	}
}
