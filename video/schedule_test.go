package video

import (
	"strings"
	"testing"
)

// The order of an epoch is kept in memory, so files times clips of each are bounded together.
func TestEpochThatIsTooLong(t *testing.T) {
	files := make([]*file, maxTurns/maxClipsPerVideo+1)
	if _, err := newSchedule(files, Spec{ClipsPerVideo: maxClipsPerVideo}); err == nil || !strings.Contains(err.Error(), "clips_per_video: 65536 of each of 1025 files") {
		t.Errorf("got %v", err)
	}
}
