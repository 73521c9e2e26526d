package synth

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/surmise-ml/surmise/internal/durable"
)

// Labels of videos in pairs.csv and events.jsonl.
const (
	impossible = 0
	possible   = 1
)

// event is one line of events.jsonl: what one video shows. Lengths are in frame
// widths, times in frames.
type event struct {
	Path       string  `json:"path"`  // below the folder, with slashes
	Label      int     `json:"label"` // 1 possible, 0 impossible
	Group      string  `json:"group,omitempty"`
	Property   string  `json:"property,omitempty"`
	Difficulty string  `json:"difficulty"`
	Size       int     `json:"size"` // pixels per side
	Frames     int     `json:"frames"`
	FPS        float64 `json:"fps"`
	// EventFrame is the first frame in which the group's impossible videos
	// differ from the possible ones they follow; absent from training clips.
	EventFrame int `json:"event_frame,omitempty"`
	// World is what is seen; in an impossible video before EventFrame.
	World world `json:"world"`
	// After is what is seen from EventFrame on; impossible videos only.
	After *world `json:"after,omitempty"`
}

// event fills in what all videos have in common.
func (o Options) event(e event) event {
	e.Size, e.Frames, e.FPS, e.Difficulty = o.Size, o.Frames, o.FPS, o.Difficulty
	return e
}

// worldAt is what the video shows in a frame.
func (e event) worldAt(frame int) world {
	if e.After != nil && frame >= e.EventFrame {
		return *e.After
	}
	return e.World
}

func writeEvents(path string, events []event) error {
	var text bytes.Buffer
	lines := json.NewEncoder(&text)
	for _, e := range events {
		if err := lines.Encode(e); err != nil {
			return fmt.Errorf("writing %s: video %s: %w", eventsFile, e.Path, err)
		}
	}
	return writeSynced(path, text.Bytes())
}

func writePairs(path string, events []event) error {
	var text bytes.Buffer
	table := [][]string{{"path", "label", "group", "property"}}
	for _, e := range events {
		if e.Group != "" {
			table = append(table, []string{e.Path, strconv.Itoa(e.Label), e.Group, e.Property})
		}
	}
	if err := csv.NewWriter(&text).WriteAll(table); err != nil {
		return fmt.Errorf("writing %s: %w", pairsFile, err)
	}
	return writeSynced(path, text.Bytes())
}

// writeSynced writes a file of the temporary folder and waits for the disk.
func writeSynced(path string, data []byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Sync()
}

// publish moves the named files and folders from the temporary folder into dir
// and makes that durable. pairs.csv comes last: it marks a whole result.
func publish(partial, dir string, names []string) error {
	for _, name := range names {
		from := filepath.Join(partial, name)
		if err := durable.Sync(from); err != nil {
			return err
		}
		if err := os.Rename(from, filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("moving synthetic videos into place: %w", err)
		}
	}
	return durable.Sync(dir)
}
