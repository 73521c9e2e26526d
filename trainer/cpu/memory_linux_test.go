package cpu

import (
	"testing"
	"testing/fstest"
)

func TestAvailableMemory(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	for name, c := range map[string]struct {
		files fstest.MapFS
		want  int64
		ok    bool
	}{
		"nothing said": {fstest.MapFS{}, 0, false},
		"no groups":    {fstest.MapFS{"proc/meminfo": file("MemTotal: 9000 kB\nMemAvailable:    4000 kB\n")}, 4000 << 10, true},
		"version 2, a limit further up": {fstest.MapFS{
			"proc/meminfo":     file("MemAvailable: 4000 kB\n"),
			"proc/self/cgroup": file("0::/slurm/job_1/task_0\n"),
			"sys/fs/cgroup/slurm/job_1/task_0/memory.max":     file("max\n"),
			"sys/fs/cgroup/slurm/job_1/task_0/memory.current": file("1000\n"),
			"sys/fs/cgroup/slurm/job_1/memory.max":            file("5000\n"),
			"sys/fs/cgroup/slurm/job_1/memory.current":        file("3000\n"),
			"sys/fs/cgroup/slurm/job_1/memory.stat":           file("anon 2000\ninactive_file 500\n"),
		}, 2500, true},
		"version 2, throttled before it is ended": {fstest.MapFS{
			"proc/meminfo":                   file("MemAvailable: 4000 kB\n"),
			"proc/self/cgroup":               file("0::/x\n"),
			"sys/fs/cgroup/x/memory.max":     file("max\n"),
			"sys/fs/cgroup/x/memory.high":    file("3000\n"),
			"sys/fs/cgroup/x/memory.current": file("1000\n"),
		}, 2000, true},
		"version 2, in a container": {fstest.MapFS{
			"proc/self/cgroup":             file("0::/\n"),
			"sys/fs/cgroup/memory.max":     file("700\n"),
			"sys/fs/cgroup/memory.current": file("900\n"),
		}, 0, true},
		"version 1": {fstest.MapFS{
			"proc/meminfo":     file("MemAvailable: 4000 kB\n"),
			"proc/self/cgroup": file("5:freezer:/\n4:memory:/box\n0::/\n"),
			"sys/fs/cgroup/memory/box/memory.limit_in_bytes": file("90000\n"),
			"sys/fs/cgroup/memory/box/memory.usage_in_bytes": file("30000\n"),
		}, 60000, true},
	} {
		if got, ok := availableIn(c.files); ok != c.ok || ok && got != c.want {
			t.Errorf("%s: %d, %t, want %d, %t", name, got, ok, c.want, c.ok)
		}
	}
	if got, ok := availableMemory(); !ok || got <= 0 {
		t.Errorf("this machine has %d bytes (%t) available", got, ok)
	}
}
