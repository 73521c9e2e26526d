// Package torch reads and writes the files of torch.save, as plain data.
//
//	torch.go    the two containers: a zip archive (PyTorch 1.6 and later), a stream of pickles (before)
//	pickle.go   the pickle machine: the opcodes and the few names that a checkpoint needs, all else refused
//	value.go    what a pickle decodes to
//	tensor.go   views of storages, read from the file by offset
//	write.go    state dicts -> a zip archive that PyTorch reads
//
// A pickle is a program. This one is never run: names of Python are looked up in a short list of our own and decode to
// plain values; any other name, and any opcode that could do more than build data, is an error that gives it.
//
// Memory is bounded by the file: a pickle may have 32 MiB and two million opcodes, storages may not be compressed or
// overlap, and a tensor's numbers are read only when they are asked for.
package torch

import (
	"archive/zip"
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

const (
	maxPickleBytes    = 32 << 20 // the state of a ViT-g and its optimiser takes 1 MB
	maxDirectoryBytes = 64 << 20 // of a zip archive; 5000 storages take 0.5 MB
	maxMembers        = 1 << 17
)

// File is an open checkpoint. Its tensors read from the file until it is closed.
type File struct {
	Path   string
	Format string // "zip" or "legacy"
	Root   Value  // what was saved
	f      *os.File
}

// Open reads the structure of a file of torch.save: everything but the numbers of tensors.
func Open(path string) (*File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("open checkpoint: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("open checkpoint: %s is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open checkpoint: %w", err)
	}
	root, format, err := Read(f, info.Size())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read checkpoint %s: %w", path, err), f.Close())
	}
	return &File{Path: path, Format: format, Root: root, f: f}, nil
}

// Close ends reading; tensors of the file cannot be read after it.
func (f *File) Close() error { return f.f.Close() }

// Read reads the structure of a file of size bytes. Its tensors keep r.
func Read(r io.ReaderAt, size int64) (root Value, format string, err error) {
	magic := make([]byte, min(size, 512))
	if err := readAt(r, magic, 0); err != nil {
		return nil, "", err
	}
	switch {
	case bytes.HasPrefix(magic, []byte("PK\x03\x04")), bytes.HasPrefix(magic, []byte("PK\x05\x06")):
		root, err = readZip(r, size)
		return root, "zip", err
	case len(magic) > 262 && string(magic[257:262]) == "ustar":
		return nil, "", errors.New("a tar archive: the format of PyTorch before 0.1.10 is not supported (nor is a tar of checkpoints: unpack it)")
	case len(magic) > 1 && magic[0] == opProto:
		root, err = readLegacy(r, size)
		return root, "legacy", err
	}
	return nil, "", fmt.Errorf("%d bytes that begin with %x are no file of torch.save", size, magic[:min(len(magic), 8)])
}

// readZip reads name/data.pkl, and finds the storages name/data/KEY.
func readZip(r io.ReaderAt, size int64) (Value, error) {
	directory := &budget{r, maxDirectoryBytes}
	z, err := zip.NewReader(directory, size)
	if directory.left < 0 {
		return nil, fmt.Errorf("zip directory of more than %d bytes", maxDirectoryBytes)
	}
	if err != nil {
		return nil, fmt.Errorf("zip directory: %w", err)
	}
	if len(z.File) > maxMembers {
		return nil, fmt.Errorf("zip archive of %d members, at most %d are read", len(z.File), maxMembers)
	}
	members := map[string]*zip.File{}
	var prefix string
	for _, m := range z.File {
		if members[m.Name] != nil {
			return nil, fmt.Errorf("zip member %q: there twice", clip(m.Name))
		}
		members[m.Name] = m
		if name, ok := strings.CutSuffix(m.Name, "/data.pkl"); ok {
			if prefix != "" {
				return nil, fmt.Errorf("zip members %q and %q: which is the checkpoint?", clip(prefix+"/data.pkl"), clip(m.Name))
			}
			prefix = name
		}
	}
	if prefix == "" {
		return nil, errors.New("zip archive without a data.pkl: not a file of torch.save (a model saved by TorchScript is not supported)")
	}
	if members[prefix+"/constants.pkl"] != nil {
		return nil, errors.New("a TorchScript archive (it has constants.pkl): save the model's state dict instead")
	}
	regions, err := placed(z.File, size)
	if err != nil {
		return nil, err
	}
	get := func(name string, most int64) ([]byte, error) {
		g, ok := regions[prefix+"/"+name]
		if !ok {
			return nil, nil
		}
		if g.size > most {
			return nil, fmt.Errorf("zip member %q: %d bytes, at most %d are read", name, g.size, most)
		}
		b := make([]byte, g.size)
		return b, readAt(r, b, g.at)
	}
	order, err := get("byteorder", 16)
	if err != nil {
		return nil, err
	}
	if order != nil && string(order) != "little" {
		return nil, fmt.Errorf("byte order %q, only little is supported", order)
	}
	program, err := get("data.pkl", maxPickleBytes)
	if err != nil {
		return nil, err
	}
	m := machine{data: program, storage: func(key string, of DType, n int64) (*storage, error) {
		g, ok := regions[prefix+"/data/"+key]
		if !ok {
			return nil, errors.New("the archive has no such member")
		}
		if g.size != n*int64(of.Bytes()) {
			return nil, fmt.Errorf("%d numbers of %s need %d bytes, the member has %d", n, of, n*int64(of.Bytes()), g.size)
		}
		return &storage{r: r, at: g.at, n: n, of: of, file: size, crc: g.crc, checked: true}, nil
	}}
	root, err := m.run()
	if err != nil {
		return nil, fmt.Errorf("data.pkl: %w", err)
	}
	return root, nil
}

// region is where a member's bytes lie.
type region struct {
	name     string
	at, size int64
	crc      uint32
}

// placed returns where each member lies in a file of size bytes. Members are not compressed (PyTorch never does), do not
// overlap and end inside the file: so the archive holds no more than its own size.
func placed(files []*zip.File, size int64) (map[string]region, error) {
	var all []region
	for _, m := range files {
		if strings.HasSuffix(m.Name, "/") {
			continue
		}
		if m.Method != zip.Store || m.CompressedSize64 != m.UncompressedSize64 {
			return nil, fmt.Errorf("zip member %q is compressed (method %d, %d bytes from %d), which torch.save never does", clip(m.Name), m.Method, m.UncompressedSize64, m.CompressedSize64)
		}
		at, err := m.DataOffset()
		if err != nil {
			return nil, fmt.Errorf("zip member %q: %w", clip(m.Name), err)
		}
		if n := m.UncompressedSize64; n > uint64(size) || at < 0 || at > size-int64(n) {
			return nil, fmt.Errorf("zip member %q: %d bytes from byte %d of a file of %d", clip(m.Name), m.UncompressedSize64, at, size)
		}
		all = append(all, region{m.Name, at, int64(m.UncompressedSize64), m.CRC32})
	}
	slices.SortFunc(all, func(a, b region) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.size, b.size)) })
	out := make(map[string]region, len(all))
	var end int64
	for _, g := range all {
		if g.at < end {
			return nil, fmt.Errorf("zip member %q begins at byte %d, inside another that ends at %d", clip(g.name), g.at, end)
		}
		end = g.at + g.size
		out[g.name] = g
	}
	return out, nil
}

// legacyMagic is the number that a stream begins with, as a pickle encodes it.
var legacyMagic = []byte{0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19}

const legacyProtocol = 1001

// readLegacy reads the format before PyTorch 1.6: pickles of a magic number, a protocol number, facts about the system,
// and what was saved; then a pickled list of storage keys, and each storage in its order, its length before it.
func readLegacy(r io.ReaderAt, size int64) (Value, error) {
	// The pickles are read from one window; what lies behind them in it are storages.
	window := make([]byte, min(size, maxPickleBytes))
	if err := readAt(r, window, 0); err != nil {
		return nil, err
	}
	at := 0
	storages := map[string]*storage{}
	next := func(what string) (Value, error) {
		m := machine{data: window[at:], storage: func(key string, of DType, n int64) (*storage, error) {
			s := storages[key]
			if s == nil {
				s = &storage{r: r, n: n, of: of, file: size, at: -1}
				storages[key] = s
			}
			if s.of != of || s.n != n {
				return nil, fmt.Errorf("%d numbers of %s, elsewhere %d of %s", n, of, s.n, s.of)
			}
			return s, nil
		}}
		v, err := m.run()
		if err != nil {
			return nil, fmt.Errorf("%s (byte %d): %w", what, at, err)
		}
		at += m.at
		return v, nil
	}
	magic, err := next("magic number")
	if err != nil {
		return nil, err
	}
	if long, ok := magic.(Long); !ok || !bytes.Equal(long, legacyMagic) {
		return nil, errors.New("a pickle, but not one of torch.save: it does not begin with PyTorch's magic number")
	}
	protocol, err := next("protocol")
	if err != nil {
		return nil, err
	}
	if protocol != Int(legacyProtocol) {
		return nil, fmt.Errorf("protocol %s, want %d", describe(protocol), legacyProtocol)
	}
	system, err := next("system")
	if err != nil {
		return nil, err
	}
	if d, ok := system.(*Dict); !ok || d.Get("little_endian") != Bool(true) {
		return nil, errors.New("system: not from a little-endian machine, or not a dict")
	}
	root, err := next("checkpoint")
	if err != nil {
		return nil, err
	}
	keys, err := next("list of storages")
	if err != nil {
		return nil, err
	}
	list, ok := keys.(*List)
	if !ok {
		return nil, fmt.Errorf("list of storages: %s, want a list", describe(keys))
	}
	position := int64(at)
	for _, v := range list.Items {
		key, ok := v.(String)
		s := storages[string(key)]
		if !ok || s == nil || s.at >= 0 {
			return nil, fmt.Errorf("list of storages: %s is no storage of the checkpoint, or there twice", describe(v))
		}
		var length [8]byte
		if err := readAt(r, length[:], position); err != nil {
			return nil, fmt.Errorf("length of storage %q: %w", clip(string(key)), err)
		}
		position += 8
		if n := binary.LittleEndian.Uint64(length[:]); n != uint64(s.n) {
			return nil, fmt.Errorf("storage %q: length %d, the checkpoint says %d", clip(string(key)), n, s.n)
		}
		bytes := s.n * int64(s.of.Bytes())
		if bytes > size-position {
			return nil, fmt.Errorf("storage %q: %d bytes from byte %d of a file of %d: it is cut short", clip(string(key)), bytes, position, size)
		}
		s.at = position
		position += bytes
	}
	for key, s := range storages {
		if s.at < 0 {
			return nil, fmt.Errorf("storage %q is not in the file", clip(key))
		}
	}
	return root, nil
}

// readAt fills b from byte at of the file.
func readAt(r io.ReaderAt, b []byte, at int64) error {
	n, err := r.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	return fmt.Errorf("read %d bytes at byte %d: the file is cut short (%w)", len(b), at, err)
}

// budget fails when more than left bytes are read: what a zip reader keeps is bounded by what it reads.
type budget struct {
	r    io.ReaderAt
	left int64
}

func (b *budget) ReadAt(p []byte, at int64) (int, error) {
	if b.left -= int64(len(p)); b.left < 0 {
		return 0, errors.New("too much is read")
	}
	return b.r.ReadAt(p, at)
}

// clip shortens hostile text for an error message.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
