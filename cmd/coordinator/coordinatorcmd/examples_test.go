package coordinatorcmd

import (
	"log/slog"
	"path/filepath"
	"testing"
)

// The settings that are shipped are such as the coordinator takes.
func TestShippedLauncherSettings(t *testing.T) {
	files, err := filepath.Glob("../../../deploy/slurm/*.json")
	if err != nil || len(files) < 2 {
		t.Fatalf("files %v, %v", files, err)
	}
	for _, file := range files {
		l, err := LauncherOptions{Engine: "slurm", Config: file}.open(t.TempDir(), somewhere, slog.Default())
		if err != nil {
			t.Error(err)
			continue
		}
		l.close()
	}
}
