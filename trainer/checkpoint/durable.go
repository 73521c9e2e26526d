package checkpoint

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// writeDurably makes the file at path from what write gives it. After a crash or a full disk path holds
// either what it held before or everything new.
func writeDurably(path string, write func(io.Writer) error) (_ Digest, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".tmp-*")
	if err != nil {
		return Digest{}, fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(f.Name()))
		}
	}()
	d, err := fill(f, write)
	if err != nil {
		return Digest{}, err
	}
	if err := os.Chmod(f.Name(), 0o644); err != nil { // CreateTemp makes files only the owner can read
		return Digest{}, err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return Digest{}, err
	}
	return d, syncFolder(filepath.Dir(path))
}

// fill writes, syncs and closes f, and returns the digest of what was written.
func fill(f *os.File, write func(io.Writer) error) (Digest, error) {
	h := sha256.New()
	var size counter
	w := bufio.NewWriterSize(io.MultiWriter(f, h, &size), copyBuffer)
	err := write(w)
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return Digest{}, err
	}
	return digest(h, int64(size)), nil
}

// counter is a writer that counts bytes.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// syncFolder makes the names in a folder durable: a rename is only certain once its folder is synced.
func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
