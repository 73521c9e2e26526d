package artifact

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// maxTwins is how many processes may be given one folder.
const maxTwins = 64

// Claim gives this process a folder that no other process has which asks in the same way: dir, or the first of dir.2,
// dir.3, … that is free. So one that was killed finds again what it left. The folder is made if missing; the claim lasts
// until it is closed, or the process ends, however it ends. It is a file in the folder, lock, which must stay there.
func Claim(dir string) (own string, claim io.Closer, err error) {
	for n := 1; n <= maxTwins; n++ {
		if own = dir; n > 1 {
			own += "." + strconv.Itoa(n)
		}
		claim, err := lockIn(own)
		if errors.Is(err, syscall.EWOULDBLOCK) {
			continue
		}
		if err != nil {
			return "", nil, fmt.Errorf("claiming %s: %w", own, err)
		}
		return own, claim, nil
	}
	return "", nil, fmt.Errorf("claiming %s: %d processes already use it", dir, maxTwins)
}

func lockIn(dir string) (io.Closer, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", f.Name(), err), f.Close())
	}
	return f, nil
}
