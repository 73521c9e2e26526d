package kubernetes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/surmise-ml/surmise/coordinator/launch"
	"github.com/surmise-ml/surmise/internal/bounded"
)

// Templates are the pods of workers before a batch adds its own: by the pool's name, or by "cpu" and "gpu" for pools without
// one of their own.
type Templates map[string]corev1.PodTemplateSpec

// WorkerContainer is the container of a template that runs the worker. Others stand beside it.
const WorkerContainer = "worker"

// maxTemplateBytes is what a ConfigMap may hold.
const maxTemplateBytes = 1 << 20

// defaultGrace is for the last step, a checkpoint and the word to the coordinator, in seconds.
const defaultGrace = 120

// ReadTemplates reads the files NAME.yaml of a folder. Each holds a PodTemplate, as `kubectl apply` takes it; a field that
// Kubernetes does not know is an error.
func ReadTemplates(dir string) (Templates, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("reading pod templates: %w", err)
	}
	all := Templates{}
	for _, e := range entries {
		name, isYAML := strings.CutSuffix(e.Name(), ".yaml")
		if !isYAML || strings.HasPrefix(name, ".") {
			continue
		}
		path := filepath.Join(dir, e.Name())
		template, err := readTemplate(path)
		if err != nil {
			return nil, fmt.Errorf("pod template %s: %w", path, err)
		}
		all[name] = template
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("reading pod templates: %s has no file NAME.yaml: %w", dir, fs.ErrNotExist)
	}
	return all, nil
}

func readTemplate(path string) (none corev1.PodTemplateSpec, err error) {
	text, err := bounded.ReadFile(path, maxTemplateBytes)
	if err != nil {
		return none, err
	}
	var object corev1.PodTemplate
	if err := yaml.UnmarshalStrict(text, &object); err != nil {
		return none, err
	}
	if object.APIVersion != "v1" || object.Kind != "PodTemplate" {
		return none, fmt.Errorf("apiVersion %q, kind %q: want v1, PodTemplate", object.APIVersion, object.Kind)
	}
	return object.Template, checkTemplate(object.Template.Spec)
}

// checkTemplate refuses what would only fail when the first worker is started.
func checkTemplate(spec corev1.PodSpec) error {
	switch spec.RestartPolicy {
	case "", corev1.RestartPolicyNever:
	default:
		return fmt.Errorf("template.spec.restartPolicy %q: want Never: whether a worker is started again is the reconciler's to say", spec.RestartPolicy)
	}
	c := workerContainer(&spec)
	if c == nil {
		return fmt.Errorf("template.spec.containers: none is named %q", WorkerContainer)
	}
	if c.Image == "" {
		return fmt.Errorf("template.spec.containers, %s: no image", c.Name)
	}
	if slices.ContainsFunc(c.Args, func(arg string) bool { return arg == "--name" || strings.HasPrefix(arg, "--name=") }) {
		return errors.New("template.spec.containers, worker: args have --name, which the batch gives")
	}
	return nil
}

func workerContainer(spec *corev1.PodSpec) *corev1.Container {
	i := slices.IndexFunc(spec.Containers, func(c corev1.Container) bool { return c.Name == WorkerContainer })
	if i < 0 {
		return nil
	}
	return &spec.Containers[i]
}

// of is the template of a pool.
func (t Templates) of(pool string, shape launch.Shape) (*corev1.PodTemplateSpec, error) {
	for _, name := range []string{pool, shape.Device()} {
		if template, ok := t[name]; ok {
			return template.DeepCopy(), nil
		}
	}
	return nil, fmt.Errorf("no pod template %s.yaml or %s.yaml for pool %s", pool, shape.Device(), pool)
}

// Check reports whether every pool has a template.
func (t Templates) Check(pools []launch.Pool) error {
	for _, p := range pools {
		if _, err := t.of(p.Name, p.Shape); err != nil {
			return err
		}
	}
	return nil
}
