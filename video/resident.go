package video

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// forgetFiles gives the pages of mapped files back that starting has left resident: loading the program and the
// libraries behind OpenCV touches some 130 MB of code and tables, of which decoding needs a small part. What is needed
// again comes from the page cache, or from the file. Only mappings that cannot be written to, and hold nothing that
// differs from their file, are touched.
func forgetFiles() error {
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return fmt.Errorf("looking at the memory of a decoder: %w", err)
	}
	defer f.Close()
	var clean []mapping
	var m mapping
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		switch {
		case len(fields) >= 5 && !strings.HasSuffix(fields[0], ":"):
			m = parseMapping(fields)
		case len(fields) == 3 && fields[0] == "Anonymous:":
			m.clean = fields[1] == "0"
		case len(fields) > 0 && fields[0] == "VmFlags:":
			if m.file && m.clean {
				clean = append(clean, m)
			}
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("looking at the memory of a decoder: %w", err)
	}
	for _, m := range clean {
		// A failure costs memory that nobody counts on.
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, m.from, m.to-m.from, unix.MADV_DONTNEED)
	}
	return nil
}

type mapping struct {
	from, to uintptr
	file     bool // of a file, private, not to be written to
	clean    bool // no page differs from the file's
}

// parseMapping reads the first line of one: range, permissions, offset, device, inode, path.
func parseMapping(fields []string) mapping {
	low, high, ok := strings.Cut(fields[0], "-")
	from, err1 := strconv.ParseUint(low, 16, 8*int(unsafe.Sizeof(uintptr(0))))
	to, err2 := strconv.ParseUint(high, 16, 8*int(unsafe.Sizeof(uintptr(0))))
	private := len(fields[1]) == 4 && fields[1][1] != 'w' && fields[1][3] == 'p'
	return mapping{
		from: uintptr(from), to: uintptr(to),
		file: ok && err1 == nil && err2 == nil && private && fields[4] != "0" && len(fields) > 5 && strings.HasPrefix(fields[5], "/"),
	}
}
