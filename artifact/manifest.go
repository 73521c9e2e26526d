package artifact

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"strconv"
	"strings"
)

const (
	manifestVersion  = 1
	maxManifestBytes = 16 << 20
	maxFiles         = 10_000
	maxName          = 1024

	manifests = "manifests/"
	figures   = "figures/"
	partMark  = ".part-"
)

// Ref names a bundle and what it must hold.
type Ref struct {
	Path   string // key: "jobs/{id}/attempts/{epoch}/{bundle}"
	SHA256 string // of its manifest, or of the file if the bundle is one; lower-case hex
}

// String is the reference as one word, as container images have it. A Ref without a digest is its path.
func (r Ref) String() string {
	if r.SHA256 == "" {
		return r.Path
	}
	return r.Path + "@sha256:" + r.SHA256
}

var referred = regexp.MustCompile(`^(.*)@sha256:([0-9a-f]{64})$`)

// ParseRef reads what String writes.
func ParseRef(word string) Ref {
	if m := referred.FindStringSubmatch(word); m != nil {
		return Ref{m[1], m[2]}
	}
	return Ref{Path: word}
}

// AttemptKey is below what an attempt publishes. id is a job's, without "jobs/".
func AttemptKey(id string, epoch int64) string {
	return "jobs/" + id + "/attempts/" + strconv.FormatInt(epoch, 10)
}

var attemptKey = regexp.MustCompile(`^jobs/([a-z0-9-]{1,63})/attempts/([1-9][0-9]{0,18})$`)

// splitKey takes a key below an attempt apart.
func splitKey(key string) (attempt, name string, err error) {
	parts := strings.SplitN(key, "/", 5)
	if len(parts) < 5 {
		return "", "", fmt.Errorf("%q is not below an attempt", key)
	}
	attempt, name = strings.Join(parts[:4], "/"), parts[4]
	if !attemptKey.MatchString(attempt) {
		return "", "", fmt.Errorf("%q is not below an attempt", key)
	}
	return attempt, name, checkName(name)
}

var nameRunes = regexp.MustCompile(`^[A-Za-z0-9_.=+@-]+(/[A-Za-z0-9_.=+@-]+)*$`)

// checkName refuses names that some file system or store would not keep as they are.
func checkName(name string) error {
	if len(name) > maxName || !nameRunes.MatchString(name) || path.Clean(name) != name || strings.HasPrefix(name, "../") || name == ".." {
		if len(name) > 100 {
			name = name[:100] + "…"
		}
		return fmt.Errorf("%q cannot be the name of an artifact", name)
	}
	return nil
}

// Manifest says what a bundle holds.
type Manifest struct {
	Version int                `json:"version"`
	Bundle  string             `json:"bundle"`           // its name below the attempt
	Single  bool               `json:"single,omitempty"` // one file, not a folder
	Files   []File             `json:"files"`            // by name
	Figures map[string]float64 `json:"figures,omitempty"`
}

// File is one file of a bundle.
type File struct {
	Name   string `json:"name"` // below the bundle; of a single file, the last part of the bundle's name
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
	Parts  []Part `json:"parts"` // that make up the file, in order
}

// Part is an object.
type Part struct {
	Object string `json:"object"` // key below the attempt
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// Size is the bytes of the files that want returns true for; nil wants all.
func (m Manifest) Size(want func(name string) bool) (n int64) {
	for _, f := range m.Files {
		if want == nil || want(f.Name) {
			n += f.Bytes
		}
	}
	return n
}

func (m Manifest) encode() ([]byte, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	text, err := json.MarshalIndent(m, "", " ")
	if err == nil && len(text) >= maxManifestBytes {
		err = fmt.Errorf("its manifest is larger than %d bytes", maxManifestBytes)
	}
	return append(text, '\n'), err
}

func decodeManifest(text []byte) (m Manifest, err error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&m); err != nil {
		return m, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return m, errors.New("text after the JSON object")
	}
	return m, m.check()
}

var hexDigest = regexp.MustCompile(`^[0-9a-f]{64}$`)

// check holds a manifest to its form. One that passes names no file outside of its bundle.
func (m Manifest) check() error {
	if m.Version != manifestVersion {
		return fmt.Errorf("version %d, this program reads version %d", m.Version, manifestVersion)
	}
	if err := checkName(m.Bundle); err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	if strings.HasPrefix(m.Bundle+"/", manifests) || strings.HasPrefix(m.Bundle+"/", figures) {
		return fmt.Errorf("bundle: %q is taken", m.Bundle)
	}
	if len(m.Files) > maxFiles || m.Single && (len(m.Files) != 1 || m.Files[0].Name != path.Base(m.Bundle)) {
		return fmt.Errorf("%d files", len(m.Files))
	}
	last := ""
	for _, f := range m.Files {
		if err := checkName(f.Name); err != nil {
			return err
		}
		if f.Name <= last {
			return fmt.Errorf("file %q does not follow %q", f.Name, last)
		}
		last = f.Name
		whole := path.Join(m.Bundle, f.Name)
		if m.Single {
			whole = m.Bundle
		}
		var sum int64
		for i, p := range f.Parts {
			if want := partName(whole, i); p.Object != want && (p.Object != whole || len(f.Parts) > 1) {
				return fmt.Errorf("file %q: part %d is object %q, want %q", f.Name, i, p.Object, want)
			}
			if p.Bytes < 0 || sum+p.Bytes < sum || !hexDigest.MatchString(p.SHA256) {
				return fmt.Errorf("file %q: part %d: %d bytes, digest %q", f.Name, i, p.Bytes, p.SHA256)
			}
			sum += p.Bytes
		}
		if sum != f.Bytes || len(f.Parts) == 0 || !hexDigest.MatchString(f.SHA256) {
			return fmt.Errorf("file %q: %d bytes in %d parts of %d bytes, digest %q", f.Name, f.Bytes, len(f.Parts), sum, f.SHA256)
		}
	}
	return nil
}

func partName(whole string, i int) string { return fmt.Sprintf("%s%s%05d", whole, partMark, i) }

func manifestKey(attempt, bundle string) string { return attempt + "/" + manifests + bundle + ".json" }

func digestOf(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// Manifest reads what a bundle holds, and holds it against the reference. It is ErrNotFound for one that is not
// published, ErrDamaged for one that is not what the reference says.
func (s *Store) Manifest(ctx context.Context, ref Ref) (m Manifest, err error) {
	attempt, bundle, err := splitKey(ref.Path)
	if err != nil {
		return m, err
	}
	key := manifestKey(attempt, bundle)
	err = s.try(ctx, "reading "+key, func(ctx context.Context) error {
		text, err := s.readAll(ctx, key, maxManifestBytes)
		if err != nil {
			return err
		}
		if m, err = decodeManifest(text); err != nil {
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		if m.Bundle != bundle {
			return fmt.Errorf("%w: it is of bundle %q", ErrDamaged, m.Bundle)
		}
		if got := digestOf(text); ref.SHA256 != got && (!m.Single || ref.SHA256 != m.Files[0].SHA256) {
			return fmt.Errorf("%w: its digest is %s, want %s", ErrDamaged, got, ref.SHA256)
		}
		return nil
	})
	return m, err
}

// Check is Manifest that also sees to it that all objects are there, as long as they must be. It does not read them.
func (s *Store) Check(ctx context.Context, ref Ref) (Manifest, error) {
	m, err := s.Manifest(ctx, ref)
	if err != nil {
		return m, err
	}
	attempt, bundle, err := splitKey(ref.Path)
	if err != nil {
		return m, err
	}
	found, err := s.list(ctx, attempt+"/"+bundle, maxObjects)
	if err != nil {
		return m, err
	}
	sizes := make(map[string]int64, len(found))
	for _, o := range found {
		sizes[o.key] = o.bytes
	}
	for _, f := range m.Files {
		for _, p := range f.Parts {
			size, ok := sizes[attempt+"/"+p.Object]
			if !ok {
				return m, fmt.Errorf("%s: object %s: %w", ref.Path, p.Object, ErrNotFound)
			}
			if size != p.Bytes {
				return m, fmt.Errorf("%s: object %s: %w: %d bytes, want %d", ref.Path, p.Object, ErrDamaged, size, p.Bytes)
			}
		}
	}
	return m, nil
}
