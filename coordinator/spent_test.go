package coordinator_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// spent is what the coordinator, and a database that this process started, have used since the last reset.
type spent struct {
	wall     time.Time
	self     time.Duration // processor time of this process
	database time.Duration // of the processes of PostgreSQL below it
}

// resetSpent begins to count, and forgets memory that was used before.
func resetSpent() spent {
	debug.FreeOSMemory()
	_ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) // the peak begins here; where that is refused it is from before
	return spent{time.Now(), processorTime(), databaseTime()}
}

// report says what was used since s: cores of each, and the peak of memory.
func (s spent) report(b *testing.B, dispatches int) {
	wall := time.Since(s.wall).Seconds()
	self, database := (processorTime() - s.self).Seconds(), (databaseTime() - s.database).Seconds()
	b.ReportMetric(self/wall, "cores")
	b.ReportMetric(peakMB(b), "peak-MB")
	if database > 0 {
		b.ReportMetric(database/wall, "database-cores")
	}
	if dispatches > 0 {
		b.ReportMetric((self+database)/float64(dispatches)*1e3, "cpu-ms/dispatch")
	}
	b.ReportMetric(0, "ns/op") // says nothing
}

func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// databaseTime sums what /proc says of the processes called postgres that descend from this one.
func databaseTime() (sum time.Duration) {
	const tick = 10 * time.Millisecond
	parents, times := map[int]int{}, map[int]time.Duration{}
	files, _ := filepath.Glob("/proc/[0-9]*/stat") // only a bad pattern is an error
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		var pid int
		if _, err := fmt.Sscanf(string(text), "%d", &pid); err != nil {
			continue
		}
		end := bytes.LastIndexByte(text, ')') // the name may hold anything
		fields := strings.Fields(string(text[end+1:]))
		if len(fields) < 13 {
			continue
		}
		parents[pid], _ = strconv.Atoi(fields[1])
		if strings.Contains(string(text[:end]), "(postgres") {
			user, _ := strconv.Atoi(fields[11])
			system, _ := strconv.Atoi(fields[12])
			times[pid] = time.Duration(user+system) * tick
		}
	}
	for pid, t := range times {
		for up := pid; up > 1; up = parents[up] {
			if up == os.Getpid() {
				sum += t
				break
			}
		}
	}
	return sum
}

func peakMB(b *testing.B) float64 {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if kb, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(kb), " kB"), 64)
			if err != nil {
				b.Fatal(err)
			}
			return n / 1024
		}
	}
	b.Fatal("/proc/self/status has no VmHWM")
	return 0
}
