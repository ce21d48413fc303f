package volume

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"containerd-shim-uni/shim/share"

	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

type kind int

const (
	none kind = iota
	single
	followed
	copied
	memory
)

// source is where on the host a mount's volume is.
type source struct {
	kind kind
	// path is the volume's, below where in it the mount's source is.
	path, below string
	// options are those of a memory that nothing on the host is like; nil else.
	options []string
}

// The kubelet's directories of a pod (pkg/kubelet/kubelet_getters.go and
// pkg/volume/util/subpath of Kubernetes), wherever its root is.
var (
	followedPath = regexp.MustCompile(`/pods/[^/]+/volumes/kubernetes\.io~(configmap|secret|projected|downward-api)/[^/]+$`)
	emptyDirPath = regexp.MustCompile(`/pods/[^/]+/volumes/kubernetes\.io~empty-dir/[^/]+$`)
	subPath      = regexp.MustCompile(`^(.*/pods/[^/]+)/volume-subpaths/([^/]+)/[^/]+/[^/]+$`)
	hostsPath    = regexp.MustCompile(`/pods/[^/]+/etc-hosts$`)
)

// clientFiles are where clients mount files that they make for each container.
var clientFiles = []string{"/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}

// classify says what a bind mount's source is. ids are those of the container and its
// sandbox, in whose directories clients keep what they make for them.
func classify(m specs.Mount, ids []string) (source, error) {
	path := filepath.Clean(m.Source)
	readOnly := slices.Contains(m.Options, "ro") || slices.Contains(m.Options, "rro")
	switch {
	case slices.Contains(clientFiles, m.Destination) && ownFile(path, ids):
		return source{kind: single, path: path}, nil
	case followedPath.MatchString(path) && readOnly:
		return source{kind: followed, path: path}, nil
	case emptyDirPath.MatchString(path), m.Destination == "/dev/shm" && path != "/dev/shm":
		_, ok, err := share.Memory(path)
		if err != nil || !ok {
			return source{}, err
		}
		return source{kind: memory, path: path}, nil
	}
	if part := subPath.FindStringSubmatch(path); part != nil {
		return subPathOf(path, filepath.Join(part[1], "volumes"), part[2], readOnly)
	}
	return source{}, nil
}

// ownFile says whether a file was made for one of ids, or by the kubelet for a pod.
func ownFile(path string, ids []string) bool {
	if hostsPath.MatchString(path) {
		return true
	}
	return slices.ContainsFunc(strings.Split(filepath.Dir(path), "/"), func(name string) bool {
		return name != "" && slices.Contains(ids, name)
	})
}

// subPathOf says what the kubelet mounted as a part of a volume of that name. Of what
// a pod has in memory the host knows where it lies, but not what it holds.
func subPathOf(path, volumes, name string, readOnly bool) (source, error) {
	found, err := filepath.Glob(filepath.Join(volumes, "kubernetes.io~*", name))
	if err != nil || len(found) != 1 {
		return source{}, nil // one that is not known
	}
	if followedPath.MatchString(found[0]) && readOnly {
		return source{kind: copied, path: path}, nil
	}
	if !emptyDirPath.MatchString(found[0]) {
		return source{}, nil
	}
	_, ok, err := share.Memory(found[0])
	if err != nil || !ok {
		return source{}, err
	}
	mounts, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(path))
	if err != nil || len(mounts) != 1 || mounts[0].FSType != "tmpfs" {
		return source{}, errors.Join(fmt.Errorf("%s is no mount of the tmpfs %s", path, found[0]), err)
	}
	return source{kind: memory, path: found[0], below: strings.Trim(mounts[0].Root, "/")}, nil
}

// isDir says whether a path is a directory now.
func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
