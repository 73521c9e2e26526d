package kubernetes

import (
	"fmt"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/surmise-ml/surmise/coordinator/launch"
)

// job is the Job of a batch: the pool's template with the batch's name, shape and flags.
func (l *Launcher) job(b launch.Batch) (*batchv1.Job, error) {
	name := b.Name.String()
	template, err := l.templates.of(b.Name.Pool, b.Shape)
	if err != nil {
		return nil, fmt.Errorf("making Job %s: %w", name, err)
	}
	ours := map[string]string{labelManagedBy: managedBy, labelPrefix: l.prefix, labelPool: b.Name.Pool}
	template.Labels = merged(template.Labels, ours)
	template.Spec.RestartPolicy = corev1.RestartPolicyNever
	if template.Spec.TerminationGracePeriodSeconds == nil {
		template.Spec.TerminationGracePeriodSeconds = new(int64(defaultGrace))
	}
	worker := workerContainer(&template.Spec)
	if worker == nil {
		return nil, fmt.Errorf("making Job %s: its template has no container %q", name, WorkerContainer)
	}
	// The index comes from the variable that Kubernetes gives every container of an Indexed Job.
	worker.Args = append(append(worker.Args, "--name="+name+"-$("+indexVariable+")"), b.Flags()...)
	l.size(&worker.Resources, b.Shape)
	if worker.TerminationMessagePolicy == "" { // a failed worker's last lines become the reason
		worker.TerminationMessagePolicy = corev1.TerminationMessageFallbackToLogsOnError
	}

	if l.queue != "" {
		ours[labelQueue] = l.queue
	}
	count := int32(b.Count)
	job := &batchv1.Job{
		TypeMeta:   metav1.TypeMeta{APIVersion: "batch/v1", Kind: "Job"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: l.cluster.Namespace, Labels: ours},
		Spec: batchv1.JobSpec{
			CompletionMode:          new(batchv1.IndexedCompletion),
			Completions:             new(count),
			Parallelism:             new(count),
			PodReplacementPolicy:    new(batchv1.Failed), // never two pods of one name
			TTLSecondsAfterFinished: new(l.keep),
			PodFailurePolicy: &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
				Action: batchv1.PodFailurePolicyActionIgnore,
				OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{
					{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}},
			}}},
			Template: *template,
		},
	}
	if b.Count == 1 {
		job.Spec.BackoffLimit = new(int32(0))
	} else { // for a Job as a whole, 0 would end all workers with the first that fails
		job.Spec.BackoffLimitPerIndex = new(int32(0))
	}
	return job, nil
}

// indexVariable is set by the Job controller.
const indexVariable = "JOB_COMPLETION_INDEX"

// size gives a container what the shape asks for, as request and as limit; what the shape leaves open stays as the template
// has it.
func (l *Launcher) size(r *corev1.ResourceRequirements, s launch.Shape) {
	set := func(name corev1.ResourceName, q *resource.Quantity) {
		if r.Requests == nil {
			r.Requests = corev1.ResourceList{}
		}
		if r.Limits == nil {
			r.Limits = corev1.ResourceList{}
		}
		r.Requests[name], r.Limits[name] = *q, *q
	}
	if s.CPUs > 0 {
		set(corev1.ResourceCPU, resource.NewQuantity(int64(s.CPUs), resource.DecimalSI))
	}
	if s.Memory > 0 {
		set(corev1.ResourceMemory, resource.NewQuantity(s.Memory, resource.BinarySI))
	}
	if s.GPUs > 0 {
		set(l.gpu, resource.NewQuantity(int64(s.GPUs), resource.DecimalSI))
	}
}
