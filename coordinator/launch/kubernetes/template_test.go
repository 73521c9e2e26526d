package kubernetes

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/surmise-ml/surmise/coordinator/launch"
)

const goodTemplate = `apiVersion: v1
kind: PodTemplate
metadata: {name: cpu}
template:
  spec:
    containers:
    - name: worker
      image: surmise-worker
      args: [--coordinator=surmise:7433]
`

func writeTemplates(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestReadTemplates(t *testing.T) {
	// A ConfigMap's folder has links and hidden files beside the names.
	dir := writeTemplates(t, map[string]string{"cpu.yaml": goodTemplate, "big.yaml": goodTemplate, "..data.yaml": "x", "README": "x"})
	all, err := ReadTemplates(dir)
	if err != nil || len(all) != 2 || all["cpu"].Spec.Containers[0].Image != "surmise-worker" {
		t.Fatalf("got %v, %v", all, err)
	}
	if err := all.Check([]launch.Pool{{Name: "small"}, {Name: "big", Shape: launch.Shape{GPUs: 1}}}); err != nil {
		t.Error(err)
	}
	if err := all.Check([]launch.Pool{{Name: "fast", Shape: launch.Shape{GPUs: 1}}}); err == nil || !strings.Contains(err.Error(), "no pod template fast.yaml or gpu.yaml for pool fast") {
		t.Errorf("got %v", err)
	}
}

func TestBadTemplates(t *testing.T) {
	change := func(old, new string) map[string]string {
		return map[string]string{"cpu.yaml": strings.Replace(goodTemplate, old, new, 1)}
	}
	for want, files := range map[string]map[string]string{
		"no file NAME.yaml":       {"cpu.json": "{}"},
		`unknown field "imagee"`:  change("image:", "imagee:"),
		"already set":             change("image: surmise-worker", "image: a\n      image: b"),
		`kind "Pod"`:              change("PodTemplate", "Pod"),
		`none is named "worker"`:  change("name: worker", "name: main"),
		"no image":                change("image: surmise-worker", "tty: false"),
		"want Never":              change("    containers:", "    restartPolicy: Always\n    containers:"),
		"--name":                  change("[--coordinator", "[--name=a, --coordinator"),
		"more than 1048576 bytes": {"cpu.yaml": goodTemplate + strings.Repeat("#", 1<<20)},
	} {
		if _, err := ReadTemplates(writeTemplates(t, files)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
	}
	if _, err := ReadTemplates(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("no folder: no error")
	}
}
