package artifact

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/surmise-ml/surmise/internal/durable"
)

// DefaultCacheBytes is what a Cache keeps unless told otherwise.
const DefaultCacheBytes = 10 << 30

// Cache keeps bundles of stores in a folder of bounded size. Safe for concurrent use by one process.
type Cache struct {
	dir  string
	most int64
	now  func() time.Time

	mu     sync.Mutex
	pinned map[string]int           // guarded by mu; entries in use
	coming int64                    // guarded by mu; bytes that are being fetched
	busy   map[string]chan struct{} // guarded by mu; entries being checked or fetched, closed when that is over
}

// OpenCache makes a Cache of a folder, which is made if missing and belongs to it alone. most is 0 for
// DefaultCacheBytes; now dates the use of entries.
func OpenCache(dir string, most int64, now func() time.Time) (*Cache, error) {
	if most == 0 {
		most = DefaultCacheBytes
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("opening the cache of artifacts: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the cache of artifacts: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), durable.Unfinished) {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return nil, fmt.Errorf("opening the cache of artifacts: %w", err)
			}
		}
	}
	return &Cache{dir: dir, most: most, now: now, pinned: map[string]int{}, busy: map[string]chan struct{}{}}, nil
}

// Get returns a folder, or a file if the bundle is one, with what a bundle holds: of a folder the files that want returns
// true for, nil wants all. Their digests have just been checked. It stays until release is called.
func (c *Cache) Get(ctx context.Context, s *Store, ref Ref, want func(name string) bool) (local string, release func(), err error) {
	m, err := s.Manifest(ctx, ref)
	if err != nil {
		return "", nil, err
	}
	entry := filepath.Join(c.dir, entryName(m, want))
	local = filepath.Join(entry, path.Base(m.Bundle))
	done, err := c.begin(ctx, entry)
	if err != nil {
		return "", nil, err
	}
	defer done()
	release = c.pin(entry)
	if c.holds(m, want, entry) {
		return local, release, nil
	}
	if err := c.fetch(ctx, s, ref, m, want, entry); err != nil {
		release()
		return "", nil, err
	}
	return local, release, nil
}

// entryName is the same for the same files with the same content.
func entryName(m Manifest, want func(string) bool) string {
	h := sha256.New()
	fmt.Fprintf(h, "%s\n", path.Base(m.Bundle))
	for _, f := range m.Files {
		if want == nil || want(f.Name) {
			fmt.Fprintf(h, "%s %s\n", f.SHA256, f.Name)
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// begin waits until nobody else is at work on an entry.
func (c *Cache) begin(ctx context.Context, entry string) (done func(), err error) {
	for {
		c.mu.Lock()
		other := c.busy[entry]
		if other == nil {
			mine := make(chan struct{})
			c.busy[entry] = mine
			c.mu.Unlock()
			return func() {
				c.mu.Lock()
				defer c.mu.Unlock()
				delete(c.busy, entry)
				close(mine)
			}, nil
		}
		c.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (c *Cache) pin(entry string) (release func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pinned[entry]++
	return sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.pinned[entry]--; c.pinned[entry] == 0 {
			delete(c.pinned, entry)
		}
	})
}

// folderOf is the folder that an entry's files lie in.
func folderOf(m Manifest, entry string) string {
	if m.Single {
		return entry
	}
	return filepath.Join(entry, path.Base(m.Bundle))
}

// holds checks an entry, and removes one that is damaged.
func (c *Cache) holds(m Manifest, want func(string) bool, entry string) bool {
	if _, err := os.Stat(entry); err != nil {
		return false
	}
	if m.Verify(folderOf(m, entry), want) != nil {
		_ = os.RemoveAll(entry) // else fetching says why it cannot be replaced
		return false
	}
	now := c.now()
	_ = os.Chtimes(entry, now, now) // else it is forgotten earlier
	return true
}

func (c *Cache) fetch(ctx context.Context, s *Store, ref Ref, m Manifest, want func(string) bool, entry string) error {
	if err := c.makeRoom(m.Size(want)); err != nil {
		return fmt.Errorf("fetching %s: %w", ref.Path, err)
	}
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.coming -= m.Size(want)
	}()
	temp, err := os.MkdirTemp(c.dir, durable.Unfinished)
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp) // gone once renamed
	if err := os.Chmod(temp, 0o755); err != nil {
		return err
	}
	if _, err := s.Fetch(ctx, ref, folderOf(m, temp), want); err != nil {
		return err
	}
	now := c.now()
	if err := errors.Join(durable.Sync(temp), os.Chtimes(temp, now, now), os.RemoveAll(entry)); err != nil {
		return err
	}
	return os.Rename(temp, entry)
}

// makeRoom forgets entries that nobody uses, those first that were not used for longest, until so many bytes more are
// within the bound, and takes them for what is coming.
func (c *Cache) makeRoom(need int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	type entry struct {
		path  string
		bytes int64
		used  time.Time
	}
	var entries []entry
	total := c.coming
	pinned := c.coming
	names, err := os.ReadDir(c.dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		if strings.HasPrefix(n.Name(), durable.Unfinished) {
			continue // coming
		}
		e := entry{path: filepath.Join(c.dir, n.Name())}
		info, err := n.Info()
		if err == nil {
			e.used = info.ModTime()
			e.bytes, err = bytesBelow(e.path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		total += e.bytes
		if c.pinned[e.path] == 0 {
			entries = append(entries, e)
		} else {
			pinned += e.bytes
		}
	}
	if pinned+need > c.most {
		entries = nil // to remove them would not make room
	}
	slices.SortFunc(entries, func(a, b entry) int { return a.used.Compare(b.used) })
	for _, e := range entries {
		if total+need <= c.most {
			break
		}
		if err := os.RemoveAll(e.path); err != nil {
			return err
		}
		total -= e.bytes
	}
	if total+need > c.most {
		return fmt.Errorf("no room for %d bytes more: %d of %d are in use", need, total, c.most)
	}
	c.coming += need
	return nil
}

func bytesBelow(folder string) (n int64, err error) {
	err = filepath.WalkDir(folder, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			n += info.Size()
		}
		return err
	})
	return n, err
}
