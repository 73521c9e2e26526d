// Package durable makes files that are there whole or not at all, after a crash or on a full disk too.
package durable

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Unfinished is how the names of files and folders begin that are being written; left behind only by a killed process.
const Unfinished = ".unfinished-"

// WriteFile makes the file at path of what write gives it, with permissions that no umask narrows. Until all of it is on
// the disk path holds what it held before.
func WriteFile(path string, mode fs.FileMode, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), Unfinished+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // gone already once renamed
			err = fmt.Errorf("write %s: %w", path, err)
		}
	}()
	w := bufio.NewWriterSize(f, 64<<10)
	err = write(w)
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return Rename(f.Name(), path)
}

// Writable says whether files can be made in a folder, by making one, which is gone again.
func Writable(folder string) error {
	f, err := os.CreateTemp(folder, Unfinished+"*")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// WriteBytes is WriteFile of what is in memory.
func WriteBytes(path string, mode fs.FileMode, data []byte) error {
	return WriteFile(path, mode, func(w io.Writer) error { _, err := w.Write(data); return err })
}

// Rename gives a file or folder, whose content is on the disk, another name in the same file system.
func Rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return Sync(filepath.Dir(to))
}

// Sync brings a file, or the names in a folder, to the disk: a new name is certain only then.
func Sync(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
