package kubernetes

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	k8stesting "k8s.io/client-go/testing"

	"github.com/surmise-ml/surmise/coordinator/launch"
	"github.com/surmise-ml/surmise/coordinator/launch/launchtest"
)

var jobsResource = schema.GroupResource{Group: "batch", Resource: "jobs"}

func TestConformance(t *testing.T) {
	launchtest.Conformance(t, func(t *testing.T) launchtest.World {
		c := newCluster(t)
		return launchtest.World{
			Open:    func(t *testing.T, prefix string) launch.Launcher { return c.launcher(t, prefix) },
			Hold:    func(*testing.T) { c.hold(true) },
			Release: func(*testing.T) { c.hold(false) },
			Refuse: func(_ *testing.T, words string) {
				c.refuse(apierrors.NewForbidden(jobsResource, "", errors.New(words)))
			},
			Accept: func(*testing.T) { c.refuse(nil) },
			Fail: func(t *testing.T, worker string) {
				c.fail(t, launchtest.Prefix, worker, 1, "")
			},
			// A Job is forgotten as a whole. Its uid is nobody else's ever, so there is nothing to reuse.
			Forget: func(t *testing.T, worker string) {
				b, _, _ := launch.ParseWorker(launchtest.Prefix, worker)
				err := c.BatchV1().Jobs(namespace).Delete(t.Context(), b.String(), metav1.DeleteOptions{})
				if err != nil && !apierrors.IsNotFound(err) {
					t.Fatal(err)
				}
				if err := c.CoreV1().Pods(namespace).Delete(t.Context(), worker+"-0", metav1.DeleteOptions{}); err != nil {
					t.Fatal(err)
				}
			},
			Step:         c.step,
			TogetherOnly: true,
		}
	})
}

func batch(pool string, count int, shape launch.Shape) launch.Batch {
	return launch.Batch{Name: launch.BatchName{Prefix: "lab", Pool: pool, Attempt: 7}, Shape: shape, Count: count, Idle: time.Minute}
}

func start(t *testing.T, l *Launcher, b launch.Batch) {
	t.Helper()
	if err := l.Start(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}

func TestJob(t *testing.T) {
	c := newCluster(t)
	l := c.launcher(t, "lab")
	l.queue = "research"
	start(t, l, batch("big", 3, launch.Shape{GPUs: 2, CPUs: 8, Memory: 1 << 34, Labels: map[string]string{"zone": "x"}, DataRoots: []string{"/data"}}))
	job := c.job(t, "lab-big-7")
	spec := job.Spec
	if job.Labels["kueue.x-k8s.io/queue-name"] != "research" || job.Labels["app.kubernetes.io/managed-by"] != "surmise" {
		t.Errorf("labels %v", job.Labels)
	}
	if *spec.CompletionMode != batchv1.IndexedCompletion || *spec.Completions != 3 || *spec.Parallelism != 3 || *spec.PodReplacementPolicy != batchv1.Failed ||
		*spec.TTLSecondsAfterFinished != 3600 || spec.BackoffLimit != nil || *spec.BackoffLimitPerIndex != 0 {
		t.Errorf("spec %+v", spec)
	}
	rules := spec.PodFailurePolicy.Rules
	if len(rules) != 1 || rules[0].Action != batchv1.PodFailurePolicyActionIgnore || rules[0].OnPodConditions[0].Type != corev1.DisruptionTarget {
		t.Errorf("failure policy %+v", rules)
	}
	pod := spec.Template.Spec
	if pod.RestartPolicy != corev1.RestartPolicyNever || *pod.TerminationGracePeriodSeconds != 120 {
		t.Errorf("pod %+v", pod)
	}
	if shipper := pod.Containers[0]; len(shipper.Args) > 0 || len(shipper.Resources.Limits) > 0 {
		t.Errorf("the other container was changed: %+v", shipper)
	}
	worker := pod.Containers[1]
	want := []string{"--coordinator=surmise:7433", "--name=lab-big-7-$(JOB_COMPLETION_INDEX)", "--gpus=2", "--memory=17179869184", "--label=zone=x", "--data-root=/data", "--exit-when-idle=1m0s"}
	if worker.Image != "worker-gpu" || !slices.Equal(worker.Args, want) || worker.TerminationMessagePolicy != corev1.TerminationMessageFallbackToLogsOnError {
		t.Errorf("worker %+v, want args %v", worker, want)
	}
	for name, want := range map[corev1.ResourceName]string{"cpu": "8", "memory": "16Gi", "nvidia.com/gpu": "2"} {
		for _, got := range []corev1.ResourceList{worker.Resources.Requests, worker.Resources.Limits} {
			if q := got[name]; q.Cmp(resource.MustParse(want)) != 0 {
				t.Errorf("%s is %s, want %s", name, q.String(), want)
			}
		}
	}

	single := batch("cpu", 1, launch.Shape{})
	start(t, l, single)
	job = c.job(t, "lab-cpu-7")
	if *job.Spec.BackoffLimit != 0 || job.Spec.BackoffLimitPerIndex != nil {
		t.Errorf("one worker: %+v", job.Spec)
	}
	if r := job.Spec.Template.Spec.Containers[1].Resources; len(r.Limits)+len(r.Requests) > 0 {
		t.Errorf("a shape that asks for nothing: %+v", r)
	}
	if l.templates["cpu"].Spec.Containers[1].Args[0] != "--coordinator=surmise:7433" || len(l.templates["cpu"].Spec.Containers[1].Args) != 1 {
		t.Error("the template was changed")
	}
}

// What the cluster answers is told in its own words.
func TestRefusals(t *testing.T) {
	for name, r := range map[string]struct {
		verb, resource string
		err            error
		want           []string
	}{
		"quota of Jobs": {"create", "jobs", apierrors.NewForbidden(jobsResource, "lab-cpu-7", errors.New("exceeded quota: jobs, requested: count/jobs.batch=1, used: count/jobs.batch=4, limited: count/jobs.batch=4")),
			[]string{"creating Job lab/lab-cpu-7", "exceeded quota: jobs"}},
		"no right to create": {"create", "jobs", apierrors.NewForbidden(jobsResource, "", errors.New(`User "system:serviceaccount:lab:surmise" cannot create resource "jobs"`)),
			[]string{"creating Job lab/lab-cpu-7", `cannot create resource "jobs"`}},
		"no namespace": {"create", "jobs", apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, "lab"),
			[]string{`namespaces "lab" not found`}},
		"credentials expired": {"create", "jobs", apierrors.NewUnauthorized("Unauthorized"),
			[]string{"credentials", "expired", "Unauthorized"}},
		"server away": {"create", "jobs", apierrors.NewServiceUnavailable("etcd leader changed"),
			[]string{"etcd leader changed"}},
		"credentials expired, listing": {"list", "jobs", apierrors.NewUnauthorized("Unauthorized"),
			[]string{"listing Jobs in lab", "expired", "Unauthorized"}},
		"no right to list pods": {"list", "pods", apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "", errors.New("cannot list")),
			[]string{"listing the pods of Jobs in lab", "cannot list"}},
		"no right to list events": {"list", "events", apierrors.NewForbidden(schema.GroupResource{Resource: "events"}, "", errors.New("cannot list")),
			[]string{"listing the events of Jobs in lab", "cannot list"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			l := c.launcher(t, "lab")
			if r.verb == "list" {
				start(t, l, batch("cpu", 1, launch.Shape{}))
			}
			c.PrependReactor(r.verb, r.resource, func(k8stesting.Action) (bool, runtime.Object, error) { return true, nil, r.err })
			var err error
			if r.verb == "create" {
				err = l.Start(t.Context(), batch("cpu", 1, launch.Shape{}))
			} else {
				_, err = l.List(t.Context())
			}
			if !errors.Is(err, r.err) {
				t.Fatalf("got %v, want %v in it", err, r.err)
			}
			for _, words := range r.want {
				if !strings.Contains(err.Error(), words) {
					t.Errorf("%q does not say %q", err, words)
				}
			}
		})
	}
}

// A Job of the same name that somebody else made is not taken for ours.
func TestForeignJob(t *testing.T) {
	c := newCluster(t)
	foreign := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "lab-cpu-7"}}
	if _, err := c.BatchV1().Jobs(namespace).Create(t.Context(), foreign, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := c.launcher(t, "lab").Start(t.Context(), batch("cpu", 1, launch.Shape{})); err == nil || !strings.Contains(err.Error(), "not Surmise's") {
		t.Errorf("got %v", err)
	}
}

func TestNew(t *testing.T) {
	c := newCluster(t)
	whole := Config{Cluster: Cluster{Batch: c.BatchV1(), Core: c.CoreV1(), Namespace: "lab"}, Prefix: "lab", Templates: templates()}
	if _, err := New(whole); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Config){
		"a client is missing": func(c *Config) { c.Cluster.Core = nil },
		"no namespace":        func(c *Config) { c.Cluster.Namespace = "" },
		"prefix":              func(c *Config) { c.Prefix = "Lab" },
		"no pod template":     func(c *Config) { c.Templates = nil },
		"keeping":             func(c *Config) { c.Keep = -1 },
	} {
		c := whole
		spoil(&c)
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// The cluster's timeouts and those of the caller both end a call.
func TestDeadline(t *testing.T) {
	c := newCluster(t)
	l := c.launcher(t, "lab")
	ctx, cancel := context.WithDeadline(t.Context(), time.Unix(0, 0))
	defer cancel()
	if _, err := l.List(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
