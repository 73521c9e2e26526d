// Package kubernetes starts workers as Jobs of a Kubernetes cluster.
//
// A batch is one Indexed Job, and worker i of it the pod of index i. Kubernetes decides where pods run, and Kueue, where a
// queue is named, when. A pod that the cluster takes away (a drained node, a preemption) is replaced under the same index;
// one that fails is not: the reconciler sees it and decides. Nothing is kept here: all that is known is read from the
// cluster.
package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	batchclient "k8s.io/client-go/kubernetes/typed/batch/v1"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/surmise-ml/surmise/coordinator/launch"
)

// Cluster is where the workers run.
type Cluster struct {
	Batch     batchclient.BatchV1Interface
	Core      coreclient.CoreV1Interface
	Namespace string
}

// Config says how workers are started. The zero value of a field has the meaning stated.
type Config struct {
	Cluster   Cluster   // required
	Prefix    string    // as launch.Settings has it; required
	Templates Templates // what their pods are made from; required
	Queue     string    // Kueue's LocalQueue that admits the Jobs; "": none
	// GPU is the resource that a GPU is; "": DefaultGPU.
	GPU string
	// Keep is how long the cluster remembers a Job that has ended, its pods and their logs, in seconds; 0: an hour.
	Keep int32
}

// DefaultGPU is the resource of NVIDIA's device plugin.
const DefaultGPU = "nvidia.com/gpu"

const defaultKeep = 3600 // seconds

// Labels of every Job and pod that is started.
const (
	labelManagedBy = "app.kubernetes.io/managed-by"
	managedBy      = "surmise"
	labelPrefix    = "surmise-ml.github.io/prefix"
	labelPool      = "surmise-ml.github.io/pool"
	labelQueue     = "kueue.x-k8s.io/queue-name"
)

// Launcher is a launch.Launcher.
type Launcher struct {
	cluster   Cluster
	prefix    string
	templates Templates
	queue     string
	gpu       corev1.ResourceName
	keep      int32
}

// New returns a launcher. It does not ask the cluster anything yet.
func New(c Config) (*Launcher, error) {
	if c.Cluster.Batch == nil || c.Cluster.Core == nil {
		return nil, errors.New("kubernetes: a client is missing")
	}
	if c.Cluster.Namespace == "" {
		return nil, errors.New("kubernetes: no namespace")
	}
	if err := launch.CheckPrefix(c.Prefix); err != nil {
		return nil, fmt.Errorf("kubernetes: prefix %w", err)
	}
	if len(c.Templates) == 0 {
		return nil, errors.New("kubernetes: no pod template")
	}
	if c.Keep < 0 {
		return nil, fmt.Errorf("kubernetes: keeping Jobs for %d s: want 0 or more", c.Keep)
	}
	l := &Launcher{cluster: c.Cluster, prefix: c.Prefix, templates: c.Templates, queue: c.Queue, gpu: corev1.ResourceName(c.GPU), keep: c.Keep}
	if l.gpu == "" {
		l.gpu = DefaultGPU
	}
	if l.keep == 0 {
		l.keep = defaultKeep
	}
	return l, nil
}

// Engine is "Kubernetes".
func (l *Launcher) Engine() string { return "Kubernetes" }

// Start creates the Job of a batch.
func (l *Launcher) Start(ctx context.Context, b launch.Batch) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	job, err := l.job(b)
	if err != nil {
		return err
	}
	jobs := l.cluster.Batch.Jobs(l.cluster.Namespace)
	_, err = jobs.Create(ctx, job, metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict})
	if !apierrors.IsAlreadyExists(err) {
		return l.wrap("creating", job.Name, err)
	}
	there, err := jobs.Get(ctx, job.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) { // it has just been deleted; the next look starts another
		return nil
	}
	if err != nil {
		return l.wrap("reading", job.Name, err)
	}
	if there.Labels[labelPrefix] != l.prefix || there.Labels[labelManagedBy] != managedBy {
		return fmt.Errorf("creating Job %s/%s: a Job of this name exists that is not Surmise's: remove it, or use another prefix than %q", l.cluster.Namespace, job.Name, l.prefix)
	}
	return nil
}

// List asks the cluster for all Jobs of the prefix and their pods, and for events where pods are missing.
func (l *Launcher) List(ctx context.Context) ([]launch.Worker, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	jobs, err := l.jobs(ctx)
	if err != nil {
		return nil, err
	}
	if len(jobs) == 0 {
		return nil, nil
	}
	pods, err := l.pods(ctx)
	if err != nil {
		return nil, err
	}
	views := make([]jobView, len(jobs))
	silent := false // pods are missing, and only events say why
	for i := range jobs {
		views[i] = viewOf(&jobs[i], pods[jobs[i].UID])
		silent = silent || views[i].lacksPods()
	}
	if silent {
		words, err := l.events(ctx)
		if err != nil {
			return nil, err
		}
		for i := range views {
			views[i].words = words.of(views[i].job)
		}
	}
	var all []launch.Worker
	for _, v := range views {
		all = append(all, v.workers()...)
	}
	return all, nil
}

// Stop deletes the Jobs of which all workers that live are named; Kubernetes asks their pods to end. A Job stays listed,
// and its name in use, until its pods have gone.
func (l *Launcher) Stop(ctx context.Context, names []string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	named := map[string]bool{}
	batches := map[string]bool{}
	for _, name := range names {
		if b, _, ok := launch.ParseWorker(l.prefix, name); ok {
			named[name], batches[b.String()] = true, true
		}
	}
	if len(batches) == 0 {
		return nil
	}
	jobs, err := l.jobs(ctx)
	if err != nil {
		return err
	}
	pods, err := l.pods(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for i := range jobs {
		job := &jobs[i]
		if !batches[job.Name] {
			continue
		}
		alive, others := 0, 0
		for _, w := range viewOf(job, pods[job.UID]).workers() {
			switch {
			case w.State == launch.Ended:
			case named[w.Name]:
				alive++
			default:
				others++
			}
		}
		if alive == 0 || others > 0 {
			continue
		}
		foreground := metav1.DeletePropagationForeground
		err := l.cluster.Batch.Jobs(l.cluster.Namespace).Delete(ctx, job.Name, metav1.DeleteOptions{
			PropagationPolicy: &foreground, Preconditions: metav1.NewUIDPreconditions(string(job.UID))})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) { // conflict: another Job of that name by now
			errs = append(errs, l.wrap("deleting", job.Name, err))
		}
	}
	return errors.Join(errs...)
}

// pageSize is how many objects one answer holds.
const pageSize = 500

// jobs are all Jobs of the prefix, by name.
func (l *Launcher) jobs(ctx context.Context) ([]batchv1.Job, error) {
	var all []batchv1.Job
	options := l.options()
	for {
		page, err := l.cluster.Batch.Jobs(l.cluster.Namespace).List(ctx, options)
		if err != nil {
			return nil, l.wrap("listing", "", err)
		}
		for _, job := range page.Items {
			if _, ok := launch.ParseBatch(l.prefix, job.Name); ok {
				all = append(all, job)
			}
		}
		if options.Continue = page.Continue; options.Continue == "" {
			return all, nil
		}
	}
}

// pods are all pods of the prefix, by the Job that controls them.
func (l *Launcher) pods(ctx context.Context) (map[ownerID][]corev1.Pod, error) {
	all := map[ownerID][]corev1.Pod{}
	options := l.options()
	for {
		page, err := l.cluster.Core.Pods(l.cluster.Namespace).List(ctx, options)
		if err != nil {
			return nil, l.wrap("listing the pods of", "", err)
		}
		for _, pod := range page.Items {
			if owner := metav1.GetControllerOf(&pod); owner != nil {
				all[owner.UID] = append(all[owner.UID], pod)
			}
		}
		if options.Continue = page.Continue; options.Continue == "" {
			return all, nil
		}
	}
}

// options select what belongs to the prefix.
func (l *Launcher) options() metav1.ListOptions {
	return metav1.ListOptions{LabelSelector: labels.SelectorFromSet(labels.Set{labelManagedBy: managedBy, labelPrefix: l.prefix}).String(), Limit: pageSize}
}

// wrap says what was being done to which Job; "" is all of them.
func (l *Launcher) wrap(doing, job string, err error) error {
	if err == nil {
		return nil
	}
	what := "Jobs in " + l.cluster.Namespace
	if job != "" {
		what = "Job " + l.cluster.Namespace + "/" + job
	}
	if apierrors.IsUnauthorized(err) {
		return fmt.Errorf("%s %s: the cluster does not take the coordinator's credentials, which may have expired: %w", doing, what, err)
	}
	return fmt.Errorf("%s %s: %w", doing, what, err)
}

// merged is a copy of one map with the entries of another over it.
func merged(under, over map[string]string) map[string]string {
	out := map[string]string{}
	maps.Copy(out, under)
	maps.Copy(out, over)
	return out
}

// has reports whether a condition of a Job holds.
func has(job *batchv1.Job, kinds ...batchv1.JobConditionType) *batchv1.JobCondition {
	i := slices.IndexFunc(job.Status.Conditions, func(c batchv1.JobCondition) bool {
		return c.Status == corev1.ConditionTrue && slices.Contains(kinds, c.Type)
	})
	if i < 0 {
		return nil
	}
	return &job.Status.Conditions[i]
}
