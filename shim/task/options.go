package task

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"containerd-shim-uni/config"
	"containerd-shim-uni/unikernel"

	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Files of a bundle in which its configuration is recorded.
const (
	configRecord = "uni-config"      // holds the path of the file in use
	configBody   = "uni-config.toml" // the file itself, when the client sent it
)

// RecordOptions notes in a bundle which configuration its runtime options ask
// for, so that whoever cleans up later uses the same. Options of another
// runtime, and none at all, mean the default.
func RecordOptions(bundle string, options *anypb.Any) error {
	path, err := configPath(bundle, options)
	if err != nil || path == "" {
		return err
	}
	return writeFile(filepath.Join(bundle, configRecord), path)
}

func configPath(bundle string, options *anypb.Any) (string, error) {
	var opts runtimeoptions.Options
	// containerd's own types have no prefix in their URL, others may.
	if options == nil || !strings.HasSuffix(options.TypeUrl, string(opts.ProtoReflect().Descriptor().FullName())) {
		return "", nil
	}
	if err := proto.Unmarshal(options.Value, &opts); err != nil {
		return "", fmt.Errorf("runtime options: %w: %w", unikernel.ErrInvalid, err)
	}
	switch {
	case opts.ConfigPath != "" && !filepath.IsAbs(opts.ConfigPath):
		return "", fmt.Errorf("runtime option ConfigPath %q: %w: it must be absolute", opts.ConfigPath, unikernel.ErrInvalid)
	case opts.ConfigPath != "":
		return opts.ConfigPath, nil
	case len(opts.ConfigBody) > 0:
		path := filepath.Join(bundle, configBody)
		return path, writeFile(path, string(opts.ConfigBody))
	default:
		return "", nil
	}
}

// LoadConfig reads the configuration a bundle was recorded with.
func LoadConfig(bundle string) (config.Config, error) {
	path, err := os.ReadFile(filepath.Join(bundle, configRecord))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return config.Config{}, err
	}
	return config.Load(string(path))
}

// writeFile writes a file so that it is there whole or not at all.
func writeFile(path, content string) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = tmp.WriteString(content)
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
	}
	return err
}
