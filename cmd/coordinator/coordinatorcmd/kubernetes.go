package coordinatorcmd

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/surmise-ml/surmise/coordinator/launch"
	"github.com/surmise-ml/surmise/coordinator/launch/kubernetes"
)

type kubernetesConfig struct {
	Templates   string   `json:"templates"`    // folder of PodTemplates, POOL.yaml, cpu.yaml or gpu.yaml; required
	Namespace   string   `json:"namespace"`    // (the pod's own, or the kubeconfig's)
	Kubeconfig  string   `json:"kubeconfig"`   // file (none: the cluster that the coordinator is a pod of)
	Context     string   `json:"context"`      // in the kubeconfig (its current one)
	Queue       string   `json:"queue"`        // Kueue's LocalQueue that admits workers (none)
	GPUResource string   `json:"gpu_resource"` // what a GPU is (nvidia.com/gpu)
	Keep        duration `json:"keep"`         // so long a Job that has ended and its logs are kept (1h)
}

// kubernetes makes the launcher, for these pools.
func (c launcherConfig) kubernetes(pools []launch.Pool) (launch.Launcher, error) {
	templates, err := c.kubernetesTemplates(pools)
	if err != nil {
		return nil, err
	}
	k := c.Kubernetes
	cluster, err := kubernetes.Connect(k.Kubeconfig, k.Context, k.Namespace)
	if err != nil {
		return nil, err
	}
	return kubernetes.New(kubernetes.Config{
		Cluster: cluster, Prefix: c.Prefix, Templates: templates, Queue: k.Queue, GPU: k.GPUResource, Keep: int32(time.Duration(k.Keep) / time.Second),
	})
}

// kubernetesTemplates reads the pod templates and refuses settings that cannot be, without asking a cluster.
func (c launcherConfig) kubernetesTemplates(pools []launch.Pool) (kubernetes.Templates, error) {
	k := c.Kubernetes
	if k.Templates == "" {
		return nil, errors.New("kubernetes.templates: is missing")
	}
	if len(c.Worker.Command)+len(c.Worker.Args) > 0 || c.Coordinator != "" {
		return nil, errors.New("worker and coordinator: the pod templates say it")
	}
	if keep := time.Duration(k.Keep); keep < 0 || keep/time.Second > math.MaxInt32 {
		return nil, fmt.Errorf("kubernetes.keep %v: want 0 to 68 years", keep)
	}
	templates, err := kubernetes.ReadTemplates(k.Templates)
	if err != nil {
		return nil, err
	}
	return templates, templates.Check(pools)
}

// CheckKubernetes reports what is wrong with a file of settings for Kubernetes, without asking a cluster.
func CheckKubernetes(path string) error {
	c, err := readLauncherConfig(path)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if c.Prefix == "" {
		c.Prefix = "surmise"
	}
	settings := c.settings(1)
	if err := settings.Check(); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if _, err := c.kubernetesTemplates(settings.Pools); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
