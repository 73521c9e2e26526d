package doctor

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// Clip is a video of ClipFrames frames, 64 × 64, H.264 in MP4, as phones and cameras make them:
//
//	ffmpeg -f lavfi -i testsrc=size=64x64:rate=8 -frames:v 8 -c:v libx264 -crf 40 -pix_fmt yuv420p \
//	  -fflags +bitexact -flags:v +bitexact -map_metadata -1 clip.mp4
//
//go:embed clip.mp4
var Clip []byte

// Space asks the file system of a folder.
func Space(folder string) (free int64, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(folder, &s); err != nil {
		return 0, fmt.Errorf("asking for the space left: %w", err)
	}
	return int64(s.Bavail) * s.Bsize, nil
}

// Write tries a folder.
func Write(folder string) error {
	f, err := os.CreateTemp(folder, ".surmise-doctor-*")
	if err != nil {
		return err
	}
	_, err = f.WriteString("may be deleted\n")
	return errors.Join(err, f.Sync(), f.Close(), os.Remove(f.Name()))
}

// Synced asks the kernel.
func Synced() (bool, error) {
	var t unix.Timex
	if _, err := unix.Adjtimex(&t); err != nil {
		return false, err
	}
	return t.Status&unix.STA_UNSYNC == 0, nil
}

// Command runs a program.
func Command(ctx context.Context, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, name, args...).Output()
	return string(out), err
}
