package kubernetes

import (
	"fmt"
	"strconv"
	"sync"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/surmise-ml/surmise/coordinator/launch"
)

const namespace = "lab"

// cluster is client-go's fake API server, with what a test needs of the Job controller, the scheduler and the kubelet.
type cluster struct {
	*fake.Clientset

	mu   sync.Mutex
	uids int
	held bool  // no node has room
	deny error // of the creation of Jobs
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{Clientset: fake.NewClientset()}
	c.PrependReactor("create", "jobs", func(action k8stesting.Action) (bool, runtime.Object, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.deny != nil {
			return true, nil, c.deny
		}
		c.uids++ // which the fake does not give, and pods refer to
		action.(k8stesting.CreateAction).GetObject().(*batchv1.Job).UID = types.UID(fmt.Sprint("job-", c.uids))
		return false, nil, nil
	})
	return c
}

// templates are two that a real installation could have.
func templates() Templates {
	pod := func(image string) corev1.PodTemplateSpec {
		return corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{
			{Name: "logs", Image: "shipper"},
			{Name: WorkerContainer, Image: image, Args: []string{"--coordinator=surmise:7433"}},
		}}}
	}
	return Templates{"cpu": pod("worker"), "gpu": pod("worker-gpu")}
}

func (c *cluster) launcher(t *testing.T, prefix string) *Launcher {
	t.Helper()
	l, err := New(Config{Cluster: Cluster{Batch: c.BatchV1(), Core: c.CoreV1(), Namespace: namespace}, Prefix: prefix, Templates: templates()})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// jobs are all Jobs.
func (c *cluster) jobs(t *testing.T) []batchv1.Job {
	t.Helper()
	list, err := c.BatchV1().Jobs(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return list.Items
}

// step lets the controllers act: every index of a Job that is neither completed nor failed has a pod, which runs unless
// the cluster is held.
func (c *cluster) step(t *testing.T) {
	t.Helper()
	for _, job := range c.jobs(t) {
		for i := range int(*job.Spec.Completions) {
			name := fmt.Sprintf("%s-%d-0", job.Name, i)
			pod, err := c.CoreV1().Pods(namespace).Get(t.Context(), name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				pod, err = c.CoreV1().Pods(namespace).Create(t.Context(), podOf(&job, i, name), metav1.CreateOptions{})
			}
			if err != nil {
				t.Fatal(err)
			}
			if pod.Status.Phase != corev1.PodPending {
				continue
			}
			pod.Status = corev1.PodStatus{Phase: corev1.PodRunning}
			if c.isHeld() {
				pod.Status = corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{{
					Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable,
					Message: "0/3 nodes are available: 3 Insufficient cpu."}}}
			}
			c.update(t, pod)
		}
	}
}

func (c *cluster) isHeld() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.held
}

func (c *cluster) hold(held bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = held
}

func (c *cluster) refuse(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deny = err
}

// podOf is pod i of a Job as its controller makes it.
func podOf(job *batchv1.Job, i int, name string) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: *job.Spec.Template.ObjectMeta.DeepCopy(), Spec: job.Spec.Template.Spec, Status: corev1.PodStatus{Phase: corev1.PodPending}}
	pod.Name, pod.Namespace = name, job.Namespace
	pod.Annotations = map[string]string{batchv1.JobCompletionIndexAnnotation: strconv.Itoa(i)}
	pod.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(job, batchv1.SchemeGroupVersion.WithKind("Job"))}
	return pod
}

func (c *cluster) update(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	if _, err := c.CoreV1().Pods(namespace).UpdateStatus(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) setStatus(t *testing.T, job *batchv1.Job) {
	t.Helper()
	if _, err := c.BatchV1().Jobs(namespace).UpdateStatus(t.Context(), job, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) job(t *testing.T, name string) *batchv1.Job {
	t.Helper()
	job, err := c.BatchV1().Jobs(namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return job
}

func (c *cluster) pod(t *testing.T, worker string) *corev1.Pod {
	t.Helper()
	pod, err := c.CoreV1().Pods(namespace).Get(t.Context(), worker+"-0", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

// fail ends a worker's container with this exit code, and its index with it.
func (c *cluster) fail(t *testing.T, prefix, worker string, code int32, message string) {
	t.Helper()
	pod := c.pod(t, worker)
	pod.Status = corev1.PodStatus{Phase: corev1.PodFailed, ContainerStatuses: []corev1.ContainerStatus{
		{Name: "logs", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Completed"}}},
		{Name: WorkerContainer, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: "Error", Message: message}}},
	}}
	c.update(t, pod)
	b, i, ok := launch.ParseWorker(prefix, worker)
	if !ok {
		t.Fatalf("%q is no worker", worker)
	}
	job := c.job(t, b.String())
	job.Status.FailedIndexes = new(strconv.Itoa(i))
	c.setStatus(t, job)
}
