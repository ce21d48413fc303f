package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzParseOptions: what is no option of mount(2) goes to the file system, in
// order; what is none of its business does not; of two options that contradict
// each other the last counts.
func FuzzParseOptions(f *testing.F) {
	f.Add("rbind,ro,nosuid,suid,rprivate,rro,mode=755,size=1m,idmap")
	f.Add("ro,rw,,defaults,remount,x=,bind")
	f.Fuzz(func(t *testing.T, line string) {
		options := strings.Split(line, ",")
		o := parseOptions(options)
		var data []string
		for _, name := range options {
			flag, isFlag := flagOptions[name]
			_, isPropagation := propagationOptions[name]
			_, isRecursive := recursiveOptions[name]
			if isFlag && flag.flag != 0 {
				after := parseOptions(append(slices.Clone(options), name)).flags
				if set := after&flag.flag == flag.flag; set == flag.clear && !flag.clear {
					t.Errorf("%q at the end is without effect: %#x", name, after)
				} else if flag.clear && after&flag.flag != 0 {
					t.Errorf("%q at the end is without effect: %#x", name, after)
				}
			}
			if !isFlag && !isPropagation && !isRecursive && !hostOptions[name] {
				data = append(data, name)
			}
		}
		if !slices.Equal(o.data, data) {
			t.Errorf("data %q, want %q", o.data, data)
		}
	})
}

// FuzzWalk: no path and no link leads out of the root, or makes anything there.
func FuzzWalk(f *testing.F) {
	f.Add("/links/../../x", "a/../../../outside", uint8(1))
	f.Add("/l/l/l", "l", uint8(2))
	f.Fuzz(func(t *testing.T, path, target string, w uint8) {
		root, dir := tree(t)
		if target != "" && !strings.Contains(target, "\x00") {
			if err := os.Symlink(target, filepath.Join(dir, "root/l")); err != nil {
				t.Skip()
			}
		}
		fd, err := walk(root, path, want(w%3))
		if err == nil {
			got, err := os.Readlink(fdPath(fd))
			unix.Close(fd)
			if at := filepath.Join(dir, "root"); err != nil || got != at && !strings.HasPrefix(got, at+"/") {
				t.Errorf("%q leads to %q, %v", path, got, err)
			}
		}
		if left, err := os.ReadDir(filepath.Join(dir, "outside")); err != nil || len(left) > 0 {
			t.Errorf("%q made %v outside, %v", path, left, err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
			t.Errorf("%q made %v beside the root, %v", path, left, err)
		}
	})
}
