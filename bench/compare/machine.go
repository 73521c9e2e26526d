package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// machine is what the figures were measured on, and when.
type machine struct {
	Date    string   `json:"date"`
	CPU     string   `json:"cpu"`
	Cores   int      `json:"cores"` // as the system counts them; threads of one core are one
	CPUs    int      `json:"cpus"`
	Virtual bool     `json:"virtual"`
	Sets    []string `json:"instruction_sets"` // those that products use
	Memory  int64    `json:"memory_bytes"`
	System  string   `json:"system"`
	Load    string   `json:"load"` // averages of 1, 5 and 15 minutes before the first run
	Go      string   `json:"go"`
	Surmise string   `json:"surmise"` // version of the working tree
	Torch   bool     `json:"pytorch"` // whether there was one
	Threads int      `json:"threads"`
	Held    string   `json:"held_to,omitempty"` // CPUs, if not all
	Rounds  int      `json:"rounds"`
	Steps   int      `json:"steps"`
}

func thisMachine(ctx context.Context, s settings) *machine {
	m := &machine{Date: s.date, CPUs: runtime.NumCPU(), Go: strings.TrimPrefix(runtime.Version(), "go"), Threads: s.threads, Held: s.cpus, Rounds: s.rounds, Steps: s.steps}
	m.readCPU(readFile("/proc/cpuinfo"))
	m.Memory = memoryOf(readFile("/proc/meminfo"))
	m.System = systemOf(readFile("/etc/os-release"), readFile("/proc/sys/kernel/osrelease"))
	if fields := strings.Fields(readFile("/proc/loadavg")); len(fields) >= 3 {
		m.Load = strings.Join(fields[:3], ", ")
	}
	m.Surmise = "unknown"
	if version, err := exec.CommandContext(ctx, "git", "describe", "--tags", "--always", "--dirty").Output(); err == nil {
		m.Surmise = string(bytes.TrimSpace(version))
	}
	return m
}

// readFile is empty where the system has no such file.
func readFile(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return string(data)
}

// readCPU fills in what /proc/cpuinfo says.
func (m *machine) readCPU(info string) {
	m.CPU = "unknown processor, " + runtime.GOARCH
	cores := map[string]bool{}
	physical := ""
	var flags []string
	for line := range strings.Lines(info) {
		key, value, _ := strings.Cut(line, ":")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		switch key {
		case "model name":
			m.CPU = value
		case "physical id":
			physical = value
		case "core id":
			cores[physical+" "+value] = true
		case "flags", "Features":
			flags = strings.Fields(value)
		}
	}
	m.Cores = len(cores)
	m.Virtual = slices.Contains(flags, "hypervisor")
	for _, set := range []struct{ flag, name string }{
		{"avx2", "AVX2"}, {"fma", "FMA"}, {"avx512f", "AVX-512"}, {"avx512_vnni", "AVX512_VNNI"}, {"avx512_bf16", "AVX512_BF16"}, {"amx_bf16", "AMX_BF16"},
		{"asimd", "NEON"}, {"sve", "SVE"}, {"bf16", "BF16"},
	} {
		if slices.Contains(flags, set.flag) {
			m.Sets = append(m.Sets, set.name)
		}
	}
}

func memoryOf(meminfo string) int64 {
	for line := range strings.Lines(meminfo) {
		if value, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			return kib << 10
		}
	}
	return 0
}

func systemOf(release, kernel string) string {
	system := runtime.GOOS
	for line := range strings.Lines(release) {
		if value, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
			system = strings.Trim(strings.TrimSpace(value), `"`)
		}
	}
	if kernel = strings.TrimSpace(kernel); kernel != "" {
		system += ", Linux " + kernel
	}
	return system
}

// cpus is the machine's CPU time so far.
type cpus struct {
	total, busy time.Duration // busy: not idle, stolen by the hypervisor too
}

func cpuTimes() cpus { return parseCPUTimes(readFile("/proc/stat")) }

func parseCPUTimes(stat string) cpus {
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every Linux that Go runs on
	var c cpus
	line, _, _ := strings.Cut(stat, "\n")
	// cpu user nice system idle iowait irq softirq steal; what follows is counted in user and nice
	for i, field := range strings.Fields(strings.TrimPrefix(line, "cpu ")) {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil || i > 7 {
			break
		}
		c.total += time.Duration(n) * tick
		if i != 3 && i != 4 {
			c.busy += time.Duration(n) * tick
		}
	}
	return c
}

// otherThan is the share of the machine's CPU time since before that went to none of ours.
func (c cpus) otherThan(before cpus, ours time.Duration) float64 {
	total := c.total - before.total
	if total <= 0 {
		return 0
	}
	return max(0, float64(c.busy-before.busy-ours)/float64(total))
}

func (m *machine) String() string {
	var b strings.Builder
	cores := fmt.Sprintf("%d cores", m.CPUs)
	if m.Cores > 0 && m.Cores != m.CPUs {
		cores = fmt.Sprintf("%d cores with %d threads", m.Cores, m.CPUs)
	}
	if m.Virtual {
		cores += " of a virtual machine"
	}
	fmt.Fprintf(&b, "%s, %s", m.CPU, cores)
	if len(m.Sets) > 0 {
		fmt.Fprintf(&b, ", %s", strings.Join(m.Sets, " "))
	}
	if m.Memory > 0 {
		fmt.Fprintf(&b, "; %.0f GB memory", float64(m.Memory)/1e9)
	}
	return b.String() + "; " + m.System
}
