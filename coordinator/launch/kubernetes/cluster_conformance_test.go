package kubernetes_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/surmise-ml/surmise/coordinator/launch"
	"github.com/surmise-ml/surmise/coordinator/launch/kubernetes"
	"github.com/surmise-ml/surmise/coordinator/launch/kubernetes/clustertest"
	"github.com/surmise-ml/surmise/coordinator/launch/launchtest"
)

const patience = 2 * time.Minute

// worker stands for a worker: it ends with 0 when it is asked to, as one that has handed its job back.
var images = map[string][]string{
	"worker":   {"/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.2; done"},
	"stubborn": {"/bin/sh", "-c", "trap 'exit 143' TERM; while :; do sleep 0.2; done"},
}

// world is a namespace of a real cluster.
type world struct {
	*clustertest.Cluster
	namespace string
}

func newWorld(t *testing.T, c *clustertest.Cluster, namespace string) world {
	t.Helper()
	c.Namespace(t, namespace)
	return world{c, namespace}
}

func (w world) launcher(t *testing.T, prefix, image string) launch.Launcher {
	t.Helper()
	cluster, err := kubernetes.ConnectTo(w.Admin, w.namespace)
	if err != nil {
		t.Fatal(err)
	}
	l, err := kubernetes.New(kubernetes.Config{Cluster: cluster, Prefix: prefix, Templates: kubernetes.Templates{"cpu": {Spec: corev1.PodSpec{
		TerminationGracePeriodSeconds: new(int64(5)),
		Containers:                    []corev1.Container{{Name: kubernetes.WorkerContainer, Image: image}},
	}}}})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (w world) cordon(t *testing.T, so bool) {
	t.Helper()
	nodes := w.Client.CoreV1().Nodes()
	clustertest.Await(t, "the node to be changed", patience, func() (bool, string) {
		node, err := nodes.Get(t.Context(), w.Node.Name, metav1.GetOptions{})
		if err != nil {
			return false, err.Error()
		}
		node.Spec.Unschedulable = so
		_, err = nodes.Update(t.Context(), node, metav1.UpdateOptions{})
		return err == nil, fmt.Sprint(err)
	})
}

// pod is the pod of a worker that runs.
func (w world) pod(t *testing.T, worker string) *corev1.Pod {
	t.Helper()
	pods, err := w.Client.CoreV1().Pods(w.namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, pod := range pods.Items {
		if strings.HasPrefix(pod.Name, worker+"-") && pod.Status.Phase == corev1.PodRunning {
			return &pod
		}
	}
	t.Fatalf("no pod of %s runs", worker)
	return nil
}

// refuse has a policy refuse Jobs with these words, and waits until it is in force.
func (w world) refuse(t *testing.T, words string) {
	t.Helper()
	policies := w.Client.AdmissionregistrationV1()
	policy := &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: w.namespace}, Spec: admissionv1.ValidatingAdmissionPolicySpec{
		MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
			Operations: []admissionv1.OperationType{admissionv1.Create}, Rule: admissionv1.Rule{APIGroups: []string{"batch"}, APIVersions: []string{"v1"}, Resources: []string{"jobs"}}}}}},
		Validations: []admissionv1.Validation{{Expression: "object.metadata.namespace != '" + w.namespace + "'", Message: words}},
	}}
	if _, err := policies.ValidatingAdmissionPolicies().Create(t.Context(), policy, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := &admissionv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: w.namespace},
		Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: w.namespace, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny}}}
	if _, err := policies.ValidatingAdmissionPolicyBindings().Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.awaitAdmission(t, false)
}

func (w world) accept(t *testing.T) {
	t.Helper()
	if err := w.Client.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings().Delete(t.Context(), w.namespace, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.awaitAdmission(t, true)
}

// awaitAdmission waits until a Job is taken, or not.
func (w world) awaitAdmission(t *testing.T, taken bool) {
	t.Helper()
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "trial"}, Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "a", Image: "worker"}}}}}}
	clustertest.Await(t, "the policy", patience, func() (bool, string) {
		_, err := w.Client.BatchV1().Jobs(w.namespace).Create(t.Context(), job, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return (err == nil) == taken, fmt.Sprint(err)
	})
}

// forget has the cluster forget the Job of a worker, and waits until it has.
func (w world) forget(t *testing.T, worker string) {
	t.Helper()
	b, _, _ := launch.ParseWorker(launchtest.Prefix, worker)
	foreground := metav1.DeletePropagationForeground
	err := w.Client.BatchV1().Jobs(w.namespace).Delete(t.Context(), b.String(), metav1.DeleteOptions{PropagationPolicy: &foreground})
	if apierrors.IsNotFound(err) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	clustertest.Await(t, "the Job to go", patience, func() (bool, string) {
		_, err := w.Client.BatchV1().Jobs(w.namespace).Get(t.Context(), b.String(), metav1.GetOptions{})
		return apierrors.IsNotFound(err), fmt.Sprint(err)
	})
}

// The launcher passes the suite on a real control plane.
func TestConformanceOnCluster(t *testing.T) {
	c := clustertest.Start(t, images)
	namespaces := 0
	launchtest.Conformance(t, func(t *testing.T) launchtest.World {
		namespaces++
		w := newWorld(t, c, fmt.Sprint("conformance-", namespaces))
		tick := time.NewTicker(200 * time.Millisecond) // the suite asks until it is so
		t.Cleanup(tick.Stop)
		return launchtest.World{
			Open:         func(t *testing.T, prefix string) launch.Launcher { return w.launcher(t, prefix, "worker") },
			Hold:         func(t *testing.T) { w.cordon(t, true) },
			Release:      func(t *testing.T) { w.cordon(t, false) },
			Refuse:       w.refuse,
			Accept:       w.accept,
			Fail:         func(t *testing.T, worker string) { w.Node.Kill(t, w.pod(t, worker)) },
			Forget:       w.forget,
			Step:         func(*testing.T) { <-tick.C },
			TogetherOnly: true,
		}
	})
	t.Run("an evicted pod is replaced under its name", func(t *testing.T) { evicted(t, newWorld(t, c, "evicted")) })
	t.Run("a quota's words", func(t *testing.T) { quota(t, newWorld(t, c, "quota")) })
	t.Run("a missing image's words", func(t *testing.T) { noImage(t, newWorld(t, c, "no-image")) })
	t.Run("rights that are missing", func(t *testing.T) { noRights(t, newWorld(t, c, "no-rights")) })
}

// await lists until a worker is as wanted.
func await(t *testing.T, l launch.Launcher, name string, good func(launch.Worker) bool) {
	t.Helper()
	clustertest.Await(t, name, patience, func() (bool, string) {
		workers, err := l.List(t.Context())
		if err != nil {
			return false, err.Error()
		}
		i := slices.IndexFunc(workers, func(w launch.Worker) bool { return w.Name == name })
		return i >= 0 && good(workers[i]), fmt.Sprint(workers)
	})
}

func running(w launch.Worker) bool { return w.State == launch.Running }

func evicted(t *testing.T, w world) {
	l := w.launcher(t, launchtest.Prefix, "stubborn")
	b := launchtest.Batch("cpu", 1, 2)
	if err := l.Start(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	for i := range b.Count {
		await(t, l, b.Worker(i), running)
	}
	pod := w.pod(t, b.Worker(1))
	if err := w.Client.PolicyV1().Evictions(w.namespace).Evict(t.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace}}); err != nil {
		t.Fatal(err)
	}
	clustertest.Await(t, "another pod", patience, func() (bool, string) {
		pods, err := w.Client.CoreV1().Pods(w.namespace).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return false, err.Error()
		}
		return slices.ContainsFunc(pods.Items, func(p corev1.Pod) bool {
			return strings.HasPrefix(p.Name, b.Worker(1)+"-") && p.UID != pod.UID && p.Status.Phase == corev1.PodRunning
		}), fmt.Sprint(len(pods.Items), " pods")
	})
	for i := range b.Count {
		await(t, l, b.Worker(i), running)
	}
	job, err := w.Client.BatchV1().Jobs(w.namespace).Get(t.Context(), b.Name.String(), metav1.GetOptions{})
	if err != nil || job.Status.Failed > 0 || job.Status.FailedIndexes != nil && *job.Status.FailedIndexes != "" {
		t.Errorf("the eviction counts as a failure: %+v, %v", job.Status, err)
	}
}

func quota(t *testing.T, w world) {
	limit := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "cpus"}, Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourceRequestsCPU: resource.MustParse("1")}}}
	if _, err := w.Client.CoreV1().ResourceQuotas(w.namespace).Create(t.Context(), limit, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	clustertest.Await(t, "the quota", patience, func() (bool, string) {
		q, err := w.Client.CoreV1().ResourceQuotas(w.namespace).Get(t.Context(), "cpus", metav1.GetOptions{})
		return err == nil && len(q.Status.Hard) > 0, fmt.Sprint(err)
	})
	l := w.launcher(t, launchtest.Prefix, "worker")
	b := launchtest.Batch("cpu", 1, 2) // of one CPU each
	if err := l.Start(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	waits := 0
	clustertest.Await(t, "one to run and one to wait", patience, func() (bool, string) {
		workers, err := l.List(t.Context())
		if err != nil {
			return false, err.Error()
		}
		waits = slices.IndexFunc(workers, func(w launch.Worker) bool {
			return w.State == launch.Waiting && strings.Contains(w.Reason, "exceeded quota: cpus, requested: requests.cpu=1")
		})
		return waits >= 0 && slices.ContainsFunc(workers, running), fmt.Sprint(workers)
	})
}

func noImage(t *testing.T, w world) {
	l := w.launcher(t, launchtest.Prefix, "nowhere/worker:9")
	b := launchtest.Batch("cpu", 1, 1)
	if err := l.Start(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	await(t, l, b.Worker(0), func(w launch.Worker) bool {
		return w.State == launch.Waiting && strings.Contains(w.Reason, "ErrImagePull") && strings.Contains(w.Reason, "nowhere/worker:9")
	})
}

func noRights(t *testing.T, w world) {
	cluster, err := kubernetes.ConnectTo(w.User(t, "system:serviceaccount:"+w.namespace+":somebody"), w.namespace)
	if err != nil {
		t.Fatal(err)
	}
	l, err := kubernetes.New(kubernetes.Config{Cluster: cluster, Prefix: launchtest.Prefix, Templates: kubernetes.Templates{"cpu": {Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: kubernetes.WorkerContainer, Image: "worker"}}}}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Start(t.Context(), launchtest.Batch("cpu", 1, 1)); err == nil || !strings.Contains(err.Error(), `cannot create resource "jobs" in API group "batch"`) {
		t.Errorf("got %v", err)
	}
	stranger := *w.Admin
	stranger.CertData, stranger.KeyData, stranger.BearerToken = nil, nil, "expired"
	if cluster, err = kubernetes.ConnectTo(&stranger, w.namespace); err != nil {
		t.Fatal(err)
	}
	if l, err = kubernetes.New(kubernetes.Config{Cluster: cluster, Prefix: launchtest.Prefix, Templates: kubernetes.Templates{"cpu": {}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.List(t.Context()); err == nil || !strings.Contains(err.Error(), "credentials") || !strings.Contains(err.Error(), "Unauthorized") {
		t.Errorf("got %v", err)
	}
}
