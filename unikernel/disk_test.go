package unikernel

import (
	"errors"
	"strings"
	"testing"
)

func TestParseDiskInfo(t *testing.T) {
	const good = `{"version":1,"guest":"linux","filesystem":"erofs","format":"raw","size":4096,"image":"sha256:0","manifest":{}}`
	want := DiskInfo{Version: 1, Guest: "linux", Filesystem: "erofs", Format: "raw", Size: 4096, Image: "sha256:0"}
	if got, err := ParseDiskInfo([]byte(good)); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	for _, tt := range []struct {
		old, new string
		want     error
	}{
		{good, "", ErrInvalid},
		{good, "[]", ErrInvalid},
		{`"version":1`, `"version":2`, ErrNotImplemented},
		{`"version":1,`, ``, ErrNotImplemented},
		{`"raw"`, `"vmdk"`, ErrInvalid},
		{`4096`, `0`, ErrInvalid},
		{`4096`, `-1`, ErrInvalid},
		{`"linux"`, `""`, ErrInvalid},
		{`"erofs"`, `""`, ErrInvalid},
	} {
		text := strings.Replace(good, tt.old, tt.new, 1)
		if _, err := ParseDiskInfo([]byte(text)); !errors.Is(err, tt.want) || !strings.Contains(err.Error(), DiskInfoFile) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
