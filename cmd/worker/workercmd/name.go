package workercmd

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
)

// maxWorkers is how many workers of one machine may share a data folder.
const maxWorkers = 1024

var validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)

// claimName takes the first name that dir keeps for this machine and no running worker uses, or makes one. A worker that
// was killed gets its name back when it starts again, and the coordinator, hearing it without its old job, gives that
// job out at once rather than wait for the lease to run out.
//
// The lock on the name's file lasts until release, or until the process ends, however it ends.
func claimName(dir string) (name string, release func() error, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", nil, err
	}
	host, err := os.Hostname()
	if err != nil {
		return "", nil, err
	}
	for n := range maxWorkers {
		path := filepath.Join(dir, fmt.Sprintf("%s-%d.name", clean(host), n))
		name, release, err := claimFile(path, clean(host))
		if errors.Is(err, syscall.EWOULDBLOCK) {
			continue // of a running worker
		}
		if err != nil {
			return "", nil, fmt.Errorf("%s: %w", path, err)
		}
		return name, release, nil
	}
	return "", nil, fmt.Errorf("%d workers of this machine already use %s; give --name", maxWorkers, dir)
}

func claimFile(path, host string) (name string, release func() error, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return "", nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return "", nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, 256))
	if err != nil {
		return "", nil, err
	}
	if name = strings.TrimSpace(string(text)); validName.MatchString(name) {
		return name, f.Close, nil
	}
	// New, or cut short by a crash. The letters keep workers apart whose machines and folders are called alike.
	name = host + "-" + strings.ToLower(rand.Text()[:8])
	if err := f.Truncate(0); err != nil {
		return "", nil, err
	}
	if _, err := f.WriteAt([]byte(name+"\n"), 0); err != nil {
		return "", nil, err
	}
	return name, f.Close, f.Sync()
}

// clean makes a host name fit the API: letters, digits, dots and dashes, not too long.
func clean(host string) string {
	host = strings.Trim(strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '-':
			return r
		}
		return '-'
	}, host), "-.")
	if host == "" {
		host = "worker"
	}
	return host[:min(len(host), 64)]
}
