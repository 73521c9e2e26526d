package kubernetes

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// checkWritable holds the folders that a pod's arguments name against its volumes: each is one of its own that can be written.
func checkWritable(t *testing.T, name string, pod corev1.PodTemplateSpec, flags ...string) {
	t.Helper()
	c := pod.Spec.Containers[0]
	for _, flag := range flags {
		at := slices.IndexFunc(c.Args, func(a string) bool { return strings.HasPrefix(a, flag) })
		if at < 0 {
			t.Errorf("pods of %s have no %s", name, flag)
			continue
		}
		folder := strings.TrimPrefix(c.Args[at], flag)
		mount := slices.IndexFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == folder && !m.ReadOnly })
		if mount < 0 {
			t.Errorf("pods of %s: %s is on no volume that can be written", name, c.Args[at])
			continue
		}
		volume := slices.IndexFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == c.VolumeMounts[mount].Name })
		if volume < 0 || pod.Spec.Volumes[volume].EmptyDir == nil {
			t.Errorf("pods of %s: %s is not the pod's own", name, c.Args[at])
		}
	}
}

// With the component the coordinator keeps artifacts where the secret says, and does not start without it.
func TestArtifactsInAStore(t *testing.T) {
	dir := t.TempDir()
	relative := func(name string) string {
		here, err := filepath.Abs(name)
		if err != nil {
			t.Fatal(err)
		}
		path, err := filepath.Rel(dir, here)
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	overlay := "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [" + relative("overlays/cpu") +
		"]\ncomponents: [" + relative("components/s3") + "]\n"
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(overlay), 0o600); err != nil {
		t.Fatal(err)
	}
	objects := decode(t, dir)
	deployments := only[*appsv1.Deployment](objects)
	if len(deployments) != 1 {
		t.Fatalf("%d deployments", len(deployments))
	}
	c := deployments[0].Spec.Template.Spec.Containers[0]
	if !slices.Contains(c.Args, "--artifacts=$(SURMISE_ARTIFACTS)") {
		t.Errorf("the coordinator's arguments are %q", c.Args)
	}
	if s := c.EnvFrom[0].SecretRef; s.Name != "surmise-s3" || s.Optional == nil || *s.Optional {
		t.Errorf("the coordinator takes %+v, want the secret surmise-s3, and it must be there", s)
	}
	for name, pod := range workerPods(t, objects) { // $(…) in their arguments is filled in from the same secret
		if !slices.ContainsFunc(pod.Spec.Containers[0].EnvFrom, func(e corev1.EnvFromSource) bool { return e.SecretRef != nil && e.SecretRef.Name == "surmise-s3" }) {
			t.Errorf("pods of %s do not take the secret surmise-s3", name)
		}
		checkWritable(t, name, pod, "--data-dir=", "--cache-dir=") // the root is read-only
	}
	guide, err := os.ReadFile("../../docs/guides/cluster-kubernetes.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, shown := range []string{"components: [../surmise/deploy/kubernetes/components/s3]", "--artifacts=$(SURMISE_ARTIFACTS)"} {
		if !strings.Contains(string(guide), shown) {
			t.Errorf("the guide does not show %s", shown)
		}
	}
}
