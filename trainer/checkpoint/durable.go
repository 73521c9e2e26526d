package checkpoint

import (
	"bufio"
	"crypto/sha256"
	"io"

	"github.com/surmise-ml/surmise/internal/durable"
)

// writeDurably makes the file at path from what write gives it, and returns the digest of that. After a crash or a full
// disk path holds either what it held before or everything new.
func writeDurably(path string, write func(io.Writer) error) (Digest, error) {
	h := sha256.New()
	var size counter
	err := durable.WriteFile(path, 0o644, func(w io.Writer) error {
		all := bufio.NewWriterSize(io.MultiWriter(w, h, &size), copyBuffer)
		if err := write(all); err != nil {
			return err
		}
		return all.Flush()
	})
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
