package cpu

import (
	"io/fs"
	"math"
	"os"
	"path"
	"strconv"
	"strings"
)

// availableMemory returns the bytes that this process can still take: what the system
// has free or can free, and no more than its control groups allow. ok is false where
// the system does not say.
func availableMemory() (bytes int64, ok bool) { return availableIn(os.DirFS("/")) }

func availableIn(root fs.FS) (bytes int64, ok bool) {
	bytes = math.MaxInt64
	if kib, found := field(root, "proc/meminfo", "MemAvailable:"); found {
		bytes = kib << 10
	}
	groups, _ := fs.ReadFile(root, "proc/self/cgroup")
	for line := range strings.Lines(string(groups)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3) // number:controllers:path
		switch {
		case len(parts) < 3:
		case parts[1] == "": // version 2; inside a container the path is / and the limit lies at the root
			bytes = min(bytes, roomInGroup(root, "sys/fs/cgroup", parts[2], "memory.current", "inactive_file", "memory.max", "memory.high"))
		case parts[1] == "memory":
			bytes = min(bytes, roomInGroup(root, "sys/fs/cgroup/memory", parts[2], "memory.usage_in_bytes", "total_inactive_file", "memory.limit_in_bytes"))
		}
	}
	return bytes, bytes < math.MaxInt64
}

// roomInGroup is the least that a control group and those above it leave: limit less
// usage, not counting cached files, which give way. MaxInt64 without a limit. Above memory.high a group is not ended but
// slowed down to next to nothing, so it is a limit too.
func roomInGroup(root fs.FS, mount, group, usageFile, cacheField string, limitFiles ...string) int64 {
	room := int64(math.MaxInt64)
	for dir := path.Join("/", group); ; dir = path.Dir(dir) {
		at := mount + dir
		limit, limited := int64(math.MaxInt64), false
		for _, file := range limitFiles {
			if n, ok := number(root, path.Join(at, file)); ok {
				limit, limited = min(limit, n), true
			}
		}
		usage, known := number(root, path.Join(at, usageFile))
		if limited && known {
			cache, _ := field(root, path.Join(at, "memory.stat"), cacheField)
			room = min(room, max(0, limit-(usage-cache)))
		}
		if dir == "/" {
			return room
		}
	}
}

// number reads a file that holds one number; "max" is none.
func number(root fs.FS, name string) (int64, bool) {
	raw, err := fs.ReadFile(root, name)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
	return n, err == nil
}

// field reads the number after a name in a file of names and numbers.
func field(root fs.FS, file, name string) (int64, bool) {
	raw, err := fs.ReadFile(root, file)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == name {
			n, err := strconv.ParseInt(f[1], 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}
