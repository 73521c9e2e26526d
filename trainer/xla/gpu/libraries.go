package gpu

import (
	"debug/elf"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ebitengine/purego"

	"github.com/surmise-ml/surmise/trainer/xla/pjrt"
)

// library is one of NVIDIA's that a plugin uses. It opens them by name while it works, and where one is missing then, it
// may end the process; so all are opened before.
type library struct {
	name     string // with its version, as it is opened
	pip      string // package that brings it
	optional bool   // for work on several GPUs, which is not done here
}

// libraries are those of each CUDA version.
var libraries = map[int][]library{
	13: {
		{name: "libcudart.so.13", pip: "nvidia-cuda-runtime"},
		{name: "libnvrtc.so.13", pip: "nvidia-cuda-nvrtc"},
		{name: "libnvJitLink.so.13", pip: "nvidia-nvjitlink"},
		{name: "libcublas.so.13", pip: "nvidia-cublas"},
		{name: "libcublasLt.so.13", pip: "nvidia-cublas"},
		{name: "libcupti.so.13", pip: "nvidia-cuda-cupti"},
		{name: "libcusparse.so.12", pip: "nvidia-cusparse"},
		{name: "libcusolver.so.12", pip: "nvidia-cusolver"},
		{name: "libcufft.so.12", pip: "nvidia-cufft"},
		{name: "libcudnn.so.9", pip: "nvidia-cudnn-cu13"},
		{name: "libnccl.so.2", pip: "nvidia-nccl-cu13", optional: true},
		{name: "libnvshmem_host.so.3", pip: "nvidia-nvshmem-cu13", optional: true},
	},
	12: {
		{name: "libcudart.so.12", pip: "nvidia-cuda-runtime-cu12"},
		{name: "libnvrtc.so.12", pip: "nvidia-cuda-nvrtc-cu12"},
		{name: "libnvJitLink.so.12", pip: "nvidia-nvjitlink-cu12"},
		{name: "libcublas.so.12", pip: "nvidia-cublas-cu12"},
		{name: "libcublasLt.so.12", pip: "nvidia-cublas-cu12"},
		{name: "libcupti.so.12", pip: "nvidia-cuda-cupti-cu12"},
		{name: "libcusparse.so.12", pip: "nvidia-cusparse-cu12"},
		{name: "libcusolver.so.11", pip: "nvidia-cusolver-cu12"},
		{name: "libcufft.so.11", pip: "nvidia-cufft-cu12"},
		{name: "libcudnn.so.9", pip: "nvidia-cudnn-cu12"},
		{name: "libnccl.so.2", pip: "nvidia-nccl-cu12", optional: true},
		{name: "libnvshmem_host.so.3", pip: "nvidia-nvshmem-cu12", optional: true},
	},
}

// MissingLibrariesError names NVIDIA's libraries that a plugin needs and that cannot be opened.
type MissingLibrariesError struct {
	Plugin   string
	Names    []string
	Packages []string // of pip, that bring them
	Err      error    // what the system said of the first
}

func (e *MissingLibrariesError) Error() string {
	return fmt.Sprintf("the PJRT plugin %s needs %s: %v", e.Plugin, strings.Join(e.Names, ", "), e.Err)
}

func (e *MissingLibrariesError) Unwrap() error { return e.Err }

// preload opens NVIDIA's libraries for everybody in the process: those among the Python packages beside the plugin, or
// else those that the system finds. A plugin of unknown kind gets none.
func (p Plugin) preload() error {
	missing := &MissingLibrariesError{Plugin: p.Path}
	paths := map[string]string{} // by name
	for _, l := range libraries[p.CUDA] {
		paths[l.name] = l.name
		if found, _ := filepath.Glob(filepath.Join(p.site(), "nvidia", "*", "lib", l.name)); p.site() != "" && len(found) > 0 {
			paths[l.name] = found[0]
		}
	}
	for _, l := range inOrder(libraries[p.CUDA], paths) {
		_, err := pjrt.OpenLibrary(paths[l.name], purego.RTLD_LAZY|purego.RTLD_GLOBAL)
		if err == nil || l.optional {
			continue
		}
		if missing.Err == nil {
			missing.Err = err
		}
		missing.Names = append(missing.Names, l.name)
		if !slices.Contains(missing.Packages, l.pip) {
			missing.Packages = append(missing.Packages, l.pip)
		}
	}
	if missing.Err != nil {
		return missing
	}
	return nil
}

// inOrder sorts libraries so that each comes after those that it names as needed, which then are the ones beside it and
// not others of the system.
func inOrder(all []library, paths map[string]string) []library {
	var out []library
	begun := map[string]bool{}
	var add func(l library)
	add = func(l library) {
		if begun[l.name] {
			return
		}
		begun[l.name] = true
		for _, name := range needs(paths[l.name]) {
			if i := slices.IndexFunc(all, func(l library) bool { return l.name == name }); i >= 0 {
				add(all[i])
			}
		}
		out = append(out, l)
	}
	for _, l := range all {
		add(l)
	}
	return out
}

// needs lists the libraries that a library names as needed. What cannot be read names none: opening it will say why.
func needs(path string) []string {
	if !filepath.IsAbs(path) {
		return nil
	}
	f, err := elf.Open(path)
	if err != nil {
		return nil
	}
	names, err := f.ImportedLibraries()
	if err := errors.Join(err, f.Close()); err != nil {
		return nil
	}
	return names
}
