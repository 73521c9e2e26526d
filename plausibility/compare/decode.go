package compare

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/surmise-ml/surmise/internal/bounded"
	"github.com/surmise-ml/surmise/internal/durable"
)

// Encode writes the file as JSON after checking it: NaN and infinities are
// refused with the video they belong to.
func (f *File) Encode(w io.Writer) error {
	if err := f.Validate(); err != nil {
		return fmt.Errorf("score file: %w", err)
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", " ")
	if err := enc.Encode(f); err != nil {
		return fmt.Errorf("writing score file: %w", err)
	}
	return nil
}

// ErrVersion is what reading a score file of another version wraps.
var ErrVersion = errors.New("score file of another version")

func versionError(got int) error {
	return fmt.Errorf("%w: it is version %d, this program reads version %d to %d; score the videos again", ErrVersion, got, oldestVersion, Version)
}

// Decode reads a score file strictly: of a version it knows, no unknown fields, no
// trailing data, at most 512 MiB, everything Validate checks.
func Decode(r io.Reader) (*File, error) {
	data, err := bounded.Read(r, maxFileBytes)
	if err != nil {
		return nil, fmt.Errorf("reading score file: %w", err)
	}
	// The version comes first: another version's fields are expected to differ.
	var head struct {
		Version *int `json:"version"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return nil, fmt.Errorf("score file: not JSON: %w", err)
	}
	if head.Version == nil {
		return nil, errors.New("score file: no version field; is this a score file?")
	}
	if *head.Version < oldestVersion || *head.Version > Version {
		return nil, versionError(*head.Version)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	f := new(File)
	if err := dec.Decode(f); err != nil {
		return nil, fmt.Errorf("score file: %w", err)
	}
	if err := refuseNull(data, f); err != nil {
		return nil, fmt.Errorf("score file: %w", err)
	}
	if err := f.Validate(); err != nil {
		return nil, fmt.Errorf("score file: %w", err)
	}
	return f, nil
}

// refuseNull names the first null of a score file, decoded as f, that stands for a number, a text or a list of numbers:
// decoding leaves zero there, which is a surprise like any other.
func refuseNull(data []byte, f *File) error {
	if !bytes.Contains(data, []byte("null")) {
		return nil
	}
	w := nullWalk{dec: json.NewDecoder(bytes.NewReader(data))}
	if err := w.value(""); err != nil {
		return err
	}
	if w.found == nil {
		return nil
	}
	// Whose scores they are is said by the place among the videos.
	var place strings.Builder
	video := ""
	for i, step := range w.found {
		if n, ok := step.(int); ok {
			fmt.Fprintf(&place, "[%d]", n)
			if list := w.found[i-1]; (list == "scores" || list == "videos") && n < len(f.Videos) {
				video = fmt.Sprintf(" (video %s)", f.Videos[n].Path)
			}
			continue
		}
		fmt.Fprintf(&place, ".%s", step)
	}
	return fmt.Errorf("%s%s: null, want a value", strings.TrimPrefix(place.String(), "."), video)
}

// absent are the fields that may be null: lists that may be empty, and parts that a file may lack.
var absent = map[string]bool{"skipped": true, "tubelet_start_s": true, "curve": true, "contexts": true, "notes": true,
	"dataset": true, "grid": true, "maps": true, "divergence": true, "contrast": true, "peak_at": true}

// nullWalk goes through JSON that is known to be valid.
type nullWalk struct {
	dec   *json.Decoder
	at    []any // names and places on the way to the value
	found []any // the first null that is refused
}

func (w *nullWalk) value(field string) error {
	token, err := w.dec.Token()
	if err != nil {
		return err
	}
	if token == nil && !absent[field] && w.found == nil {
		w.found = slices.Clone(w.at)
	}
	opened, ok := token.(json.Delim)
	if !ok {
		return nil
	}
	for i := 0; w.dec.More() && w.found == nil; i++ {
		var step any = i
		inside := ""
		if opened == '{' {
			if step, err = w.dec.Token(); err != nil {
				return err
			}
			inside, _ = step.(string)
		}
		if inside == "config" { // of another program's making
			var config json.RawMessage
			if err := w.dec.Decode(&config); err != nil {
				return err
			}
			continue
		}
		w.at = append(w.at, step)
		if err := w.value(inside); err != nil {
			return err
		}
		w.at = w.at[:len(w.at)-1]
	}
	if w.found != nil {
		return nil
	}
	_, err = w.dec.Token() // the end of it
	return err
}

// Load reads the score file at path; see Decode.
func Load(path string) (*File, error) {
	r, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening score file: %w", err)
	}
	defer r.Close()
	f, err := Decode(r)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// Save writes the score file to path: whole, or not at all.
func (f *File) Save(path string) error {
	if err := durable.WriteFile(path, 0o644, f.Encode); err != nil {
		return fmt.Errorf("score file: %w", err)
	}
	return nil
}
