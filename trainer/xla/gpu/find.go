package gpu

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// System is where things are looked for.
type System struct {
	Getenv  func(string) string
	Root    string // of the file system: "/"
	Driver  string // library of the driver; "": libcuda.so.1, wherever the system keeps it
	Manager string // library that tells what a GPU is doing; "": libnvidia-ml.so.1, likewise
}

// Here is the machine that this process runs on.
func Here() System { return System{Getenv: os.Getenv, Root: "/"} }

// PluginEnv names the plugin where the flag does not.
const PluginEnv = "PJRT_PLUGIN_LIBRARY_PATH"

// Plugin is a plugin that was found.
type Plugin struct {
	Path string
	From string // how: "--pjrt-plugin", PluginEnv or a folder of Python packages
	CUDA int    // major version that it was built for; 0: not known
}

// cudas are the plugins that are known, the preferred one first, with the driver's CUDA version that each needs at least.
var cudas = []struct {
	major  int
	module string // of Python, below jax_plugins
}{{13, "xla_cuda13"}, {12, "xla_cuda12"}}

// Find looks for a plugin: where named says, then where PluginEnv says, then among Python packages. Where one is named it
// must be there. Among packages, it takes the newest that a driver for CUDA driver (major version; 0: any) can run.
func (s System) Find(named string, driver int) (Plugin, error) {
	for _, c := range []struct{ path, from string }{{named, "--pjrt-plugin"}, {s.Getenv(PluginEnv), PluginEnv}} {
		if c.path == "" {
			continue
		}
		if info, err := os.Stat(c.path); err != nil {
			return Plugin{}, fmt.Errorf("the PJRT plugin that %s names: %w", c.from, err)
		} else if !info.Mode().IsRegular() {
			return Plugin{}, fmt.Errorf("the PJRT plugin that %s names, %s, is no file", c.from, c.path)
		}
		return Plugin{Path: c.path, From: c.from, CUDA: cudaOf(c.path)}, nil
	}
	sites := s.sites()
	var tooNew []string
	for _, c := range cudas {
		for _, site := range sites {
			path := filepath.Join(site, "jax_plugins", c.module, "xla_cuda_plugin.so")
			if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
				continue
			}
			if driver > 0 && driver < c.major {
				tooNew = append(tooNew, path)
				continue
			}
			return Plugin{Path: path, From: site, CUDA: c.major}, nil
		}
	}
	return Plugin{}, &NoPluginError{Searched: sites, TooNew: tooNew, Driver: driver}
}

// NoPluginError says that no plugin was found.
type NoPluginError struct {
	Searched []string // folders of Python packages
	TooNew   []string // plugins that the driver cannot run
	Driver   int      // major CUDA version of the driver; 0: not known
}

func (e *NoPluginError) Error() string {
	s := fmt.Sprintf("no PJRT plugin: --pjrt-plugin and %s name none, and there is none in %s", PluginEnv, orNone(e.Searched))
	if len(e.TooNew) > 0 {
		s = fmt.Sprintf("no PJRT plugin for this driver, which runs CUDA %d: %s is for a newer one", e.Driver, strings.Join(e.TooNew, ", "))
	}
	return s
}

func orNone(folders []string) string {
	if len(folders) == 0 {
		return "any folder of Python packages (there is no Python)"
	}
	return strings.Join(folders, ", ")
}

// cudaOf tells for which CUDA a plugin was built, by the folder it lies in.
func cudaOf(path string) int {
	for _, c := range cudas {
		if filepath.Base(filepath.Dir(path)) == c.module {
			return c.major
		}
	}
	return 0
}

// sites lists the folders of Python packages: of the active environment, the user's, those of the python3 in PATH, and the
// system's. Python itself is not asked, as it may take seconds and need not be there.
func (s System) sites() []string {
	var prefixes []string
	for _, env := range []string{"VIRTUAL_ENV", "CONDA_PREFIX"} {
		if p := s.Getenv(env); p != "" {
			prefixes = append(prefixes, p)
		}
	}
	if home := s.Getenv("HOME"); home != "" {
		prefixes = append(prefixes, filepath.Join(home, ".local"))
	}
	for _, dir := range filepath.SplitList(s.Getenv("PATH")) {
		python := filepath.Join(dir, "python3")
		if _, err := os.Stat(python); err != nil {
			continue
		}
		prefixes = append(prefixes, filepath.Dir(dir)) // of a virtual environment, where python3 is a link
		if real, err := filepath.EvalSymlinks(python); err == nil {
			prefixes = append(prefixes, filepath.Dir(filepath.Dir(real)))
		}
	}
	for _, p := range []string{"usr/local", "usr"} {
		prefixes = append(prefixes, filepath.Join(s.Root, p))
	}
	var out []string
	for _, dir := range filepath.SplitList(s.Getenv("PYTHONPATH")) {
		out = appendFolder(out, dir)
	}
	for _, p := range prefixes {
		for _, pattern := range []string{"lib/python3*/site-packages", "lib64/python3*/site-packages", "lib/python3*/dist-packages"} {
			found, _ := filepath.Glob(filepath.Join(p, pattern)) // the only error is that of a bad pattern
			for _, dir := range found {
				out = appendFolder(out, dir)
			}
		}
	}
	return out
}

func appendFolder(folders []string, dir string) []string {
	if info, err := os.Stat(dir); err != nil || !info.IsDir() || slices.Contains(folders, dir) {
		return folders
	}
	return append(folders, dir)
}

// site is the folder of Python packages that a plugin lies in; "": in none.
func (p Plugin) site() string {
	dir := filepath.Dir(filepath.Dir(p.Path))
	if filepath.Base(dir) != "jax_plugins" {
		return ""
	}
	return filepath.Dir(dir)
}

// dataFolder holds what the compiler needs of CUDA, libdevice above all; "": found in none of the packages, and the
// compiler looks in its own places.
func (p Plugin) dataFolder() string {
	for _, dir := range []string{fmt.Sprintf("nvidia/cu%d", p.CUDA), "nvidia/cuda_nvcc", fmt.Sprintf("jax_cuda%d_plugin", p.CUDA)} {
		path := filepath.Join(p.site(), dir)
		if found, _ := filepath.Glob(filepath.Join(path, "nvvm/libdevice/libdevice*.bc")); p.site() != "" && len(found) > 0 {
			return path
		}
	}
	return ""
}
