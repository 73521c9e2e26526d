package source

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path"
	"strings"
)

// IsURI tells a name of something elsewhere from a path.
func IsURI(name string) bool { return strings.Contains(name, "://") }

// BelowURI refuses a URI that begins with none of the roots, when there are any. What is compared is cleaned: a host
// or folder is not left through dots.
func BelowURI(roots []string, uri string) (string, error) {
	u, err := url.Parse(uri)
	if err != nil {
		return "", err
	}
	folder := strings.HasSuffix(u.Path, "/")
	if u.Path = path.Clean("/" + u.Path); folder && u.Path != "/" {
		u.Path += "/"
	}
	u.RawPath, u.Fragment = "", ""
	clean := u.String()
	if len(roots) == 0 {
		return clean, nil
	}
	for _, root := range roots {
		r, err := url.Parse(root)
		if err != nil || !IsURI(root) || r.Scheme != u.Scheme || r.Host != u.Host || r.User.String() != u.User.String() {
			continue
		}
		// The query of a bucket's URI says where the bucket is.
		if web := u.Scheme == "http" || u.Scheme == "https"; !web && r.RawQuery != u.RawQuery {
			continue
		}
		if strings.HasPrefix(u.Path, strings.TrimSuffix(path.Clean("/"+r.Path), "/")+"/") {
			return clean, nil
		}
	}
	return "", fmt.Errorf("%q lies outside the folders that may be read (%s)", u.Redacted(), strings.Join(roots, ", "))
}

// uri adds what lies elsewhere: a folder, an index, a shard or a video.
func (r *resolver) uri(ctx context.Context, name string) error {
	if r.remote == nil {
		return errors.New("a URI; only files on this machine can be read here")
	}
	clean, err := BelowURI(r.roots, name)
	if err != nil {
		return err
	}
	u, err := url.Parse(clean)
	if err != nil {
		return err
	}
	switch {
	case strings.HasSuffix(u.Path, "/"):
		names, err := r.remote.List(ctx, clean)
		if err != nil {
			return err
		}
		for _, name := range names {
			u, err := url.Parse(name)
			switch {
			case err != nil:
				return err
			case hasExtension(u.Path, shardExtensions):
				err = r.fetched(ctx, name, func(file string) error { return r.shard(ctx, file, Item{URI: name}) })
			case hasExtension(u.Path, videoExtensions):
				err = r.add(Item{URI: name})
			}
			if err != nil {
				return err
			}
		}
		return nil
	case hasExtension(u.Path, indexExtensions):
		return r.fetched(ctx, clean, func(file string) error { return r.index(ctx, file, clean) })
	case hasExtension(u.Path, shardExtensions):
		return r.fetched(ctx, clean, func(file string) error { return r.shard(ctx, file, Item{URI: clean}) })
	}
	return r.add(Item{URI: clean})
}

// fetched calls use with a local copy.
func (r *resolver) fetched(ctx context.Context, uri string, use func(file string) error) error {
	file, release, err := r.remote.Fetch(ctx, uri)
	if err != nil {
		return err
	}
	defer release()
	return use(file)
}

// indexedURI adds a row of an index that lies at base, or whose path is a URI itself. An index elsewhere names nothing
// on this machine.
func (r *resolver) indexedURI(ctx context.Context, base string, row Item) error {
	if r.remote == nil {
		return fmt.Errorf("%q is a URI; only files on this machine can be read here", row.Path)
	}
	name := row.Path
	if !IsURI(name) {
		b, err := url.Parse(base)
		if err != nil {
			return err
		}
		b.Path = path.Join("/", path.Dir(b.Path), name)
		name = b.String()
	}
	clean, err := BelowURI(r.roots, name)
	if err != nil {
		return err
	}
	if hasExtension(strings.SplitN(clean, "?", 2)[0], shardExtensions) {
		return r.fetched(ctx, clean, func(file string) error { return r.shard(ctx, file, Item{URI: clean, Label: row.Label}) })
	}
	return r.add(Item{URI: clean, Label: row.Label})
}
