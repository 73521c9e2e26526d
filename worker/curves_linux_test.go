package worker

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A checkpoint whose curve is cut off is not published: an attempt that went on from it could not put the curve together.
func TestNoCheckpointIsPublishedWhoseCurveIsCutOff(t *testing.T) {
	videos := tinyVideos(t)
	spec := complete(t, fmt.Sprintf(tinyTrain, videos.ClipsDir))
	dir := t.TempDir()
	calls := 0
	jobs := Jobs{Now: func() time.Time {
		if calls++; calls == 4 { // the file's beginning, steps 1, 2 and 3
			fillEvents(t, dir)
		}
		return time.Now()
	}}
	run := &recorder{}
	if _, err := jobs.Train(t.Context(), spec.GetTrain(), dir, run); err == nil || !IsInfrastructure(err) || !strings.Contains(err.Error(), "event file") {
		t.Errorf("got %v, want the machine's fault, naming the event file", err)
	}
	if len(run.checkpoints) != 1 || run.checkpoints[0].Step != 2 {
		t.Errorf("published %v, want step 2 alone", run.checkpoints)
	}
}

// fillEvents puts a device without room in the place of the event file that is open below dir.
func fillEvents(t *testing.T, dir string) {
	t.Helper()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range open {
		name, err := os.Readlink(filepath.Join("/proc/self/fd", e.Name()))
		if err != nil || !strings.HasPrefix(name, filepath.Join(dir, eventsArtifact)) {
			continue
		}
		var fd int
		if _, err := fmt.Sscan(e.Name(), &fd); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Dup3(int(full.Fd()), fd, syscall.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatal("no event file is open")
}
