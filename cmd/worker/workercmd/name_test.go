package workercmd

import (
	"os"
	"path/filepath"
	"testing"
)

func claim(t *testing.T, dir string) (name string, release func() error) {
	t.Helper()
	name, release, err := claimName(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !validName.MatchString(name) {
		t.Fatalf("name %q does not fit the API", name)
	}
	return name, release
}

func TestAWorkerKeepsItsName(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "workers")
	first, release := claim(t, dir)
	second, _ := claim(t, dir)
	if first == second {
		t.Fatalf("two running workers are both called %s", first)
	}
	if err := release(); err != nil { // as the end of the process does
		t.Fatal(err)
	}
	if again, _ := claim(t, dir); again != first {
		t.Errorf("a worker that starts again is called %s, want %s", again, first)
	}
	if elsewhere, _ := claim(t, t.TempDir()); elsewhere == first || elsewhere == second {
		t.Errorf("workers of two folders are both called %s", elsewhere)
	}
}

func TestANameCutShortIsMadeAnew(t *testing.T) {
	dir := t.TempDir()
	name, release := claim(t, dir)
	if err := release(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.name"))
	if err != nil || len(files) != 1 {
		t.Fatalf("files %v (%v), want one", files, err)
	}
	if err := os.Truncate(files[0], 0); err != nil {
		t.Fatal(err)
	}
	fresh, release := claim(t, dir)
	if fresh == name {
		t.Errorf("the name %s came from nowhere", name)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	if again, _ := claim(t, dir); again != fresh {
		t.Errorf("the new name is %s, and then %s", fresh, again)
	}
}

func TestClean(t *testing.T) {
	for host, want := range map[string]string{"node-1.lab": "node-1.lab", "-x_y!": "x-y", "": "worker", "ü": "worker"} {
		if got := clean(host); got != want {
			t.Errorf("clean(%q) = %q, want %q", host, got, want)
		}
	}
}
