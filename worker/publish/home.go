package publish

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// maxTwins is how many workers may have been given one folder.
const maxTwins = 64

// home is this process's own folder, claimed when it is first needed: Options.Dir, or where another process that is alive
// has that, as when a scheduler starts a worker again that it has lost sight of, the first of Dir.2, Dir.3, … that is free.
// What an earlier process left there of attempts is removed. The claim ends with Close, or with the process. p.mu is held.
func (p *Publisher) home() (string, error) {
	if p.lock != nil {
		return p.claimed, nil
	}
	if p.o.Dir == "" {
		return "", errors.New("artifacts are kept in a store, and this worker has no data folder to work in")
	}
	for n := 1; n <= maxTwins; n++ {
		dir := p.o.Dir
		if n > 1 {
			dir += "." + strconv.Itoa(n)
		}
		lock, err := claim(dir)
		if errors.Is(err, syscall.EWOULDBLOCK) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("the folder of this worker: %w", err)
		}
		if err := os.RemoveAll(attempts(dir)); err != nil {
			return "", errors.Join(fmt.Errorf("removing what an earlier worker left: %w", err), lock.Close())
		}
		p.claimed, p.lock = dir, lock
		return dir, nil
	}
	return "", fmt.Errorf("%d workers already use %s: give each a name, or a data folder, of its own", maxTwins, p.o.Dir)
}

// attempts is where the working folders of attempts lie in a home.
func attempts(home string) string { return filepath.Join(home, "attempts") }

func claim(dir string) (*os.File, error) {
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
