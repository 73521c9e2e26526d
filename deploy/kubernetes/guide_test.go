package kubernetes

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// block is the first code block of a language in the guide.
func block(t *testing.T, guide, language string) string {
	t.Helper()
	_, text, found := strings.Cut(guide, "\n```"+language+"\n")
	text, _, closed := strings.Cut(text, "\n```\n")
	if !found || !closed {
		t.Fatalf("the guide has no block of %s", language)
	}
	return text + "\n"
}

// The overlay that the guide shows is one, with its image and its pool.
func TestOverlayOfTheGuide(t *testing.T) {
	text, err := os.ReadFile("../../docs/guides/cluster-kubernetes.md")
	if err != nil {
		t.Fatal(err)
	}
	guide := string(text)
	dir := t.TempDir()
	here, err := filepath.Abs("overlays/cpu")
	if err != nil {
		t.Fatal(err)
	}
	relative, err := filepath.Rel(dir, here)
	if err != nil {
		t.Fatal(err)
	}
	const shown = "../surmise/deploy/kubernetes/overlays/cpu"
	kustomization := block(t, guide, "yaml")
	if !strings.Contains(kustomization, shown) {
		t.Fatalf("the guide's overlay is not on %s", shown)
	}
	pod, err := os.ReadFile("overlays/cpu/cpu.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"kustomization.yaml": strings.Replace(kustomization, shown, relative, 1),
		configFile:           block(t, guide, "json"),
		"cpu.yaml":           strings.Replace(string(pod), "surmise/worker:dev", "REGISTRY/surmise/worker:1", 1),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	objects := decode(t, dir)
	for _, d := range only[*appsv1.Deployment](objects) {
		if image := d.Spec.Template.Spec.Containers[0].Image; image != "REGISTRY/surmise/coordinator:1" {
			t.Errorf("the coordinator's image is %s", image)
		}
	}
	if image := workerPods(t, objects)["cpu"].Spec.Containers[0].Image; image != "REGISTRY/surmise/worker:1" {
		t.Errorf("the worker's image is %s", image)
	}
	if config := only[*corev1.ConfigMap](objects)[0].Data[configFile]; !strings.Contains(config, `"/data"`) {
		t.Errorf("the settings are %s", config)
	}
}
