package kubernetes

import (
	"maps"
	"slices"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/surmise-ml/surmise/coordinator/launch"
)

func terminated(code int32, reason, message string) corev1.PodStatus {
	return corev1.PodStatus{Phase: corev1.PodFailed, ContainerStatuses: []corev1.ContainerStatus{
		{Name: WorkerContainer, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason, Message: message}}}}}
}

func evicted(s corev1.PodStatus) corev1.PodStatus {
	s.Conditions = append(s.Conditions, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue,
		Reason: corev1.PodReasonPreemptionByScheduler, Message: "default-scheduler: preempting to accommodate a higher priority pod"})
	return s
}

func waiting(reason, message string) corev1.PodStatus {
	return corev1.PodStatus{Phase: corev1.PodPending,
		Conditions:        []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}},
		ContainerStatuses: []corev1.ContainerStatus{{Name: WorkerContainer, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}}}}
}

// A worker is where its pod is, in the cluster's words.
func TestStates(t *testing.T) {
	type state struct {
		state  launch.State
		failed bool
		reason string
	}
	for name, c := range map[string]struct {
		pod  corev1.PodStatus
		job  func(*batchv1.Job)
		want state
	}{
		"unschedulable": {
			pod: corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse,
				Reason: "Unschedulable", Message: "0/4 nodes are available: 4 Insufficient nvidia.com/gpu."}}},
			want: state{launch.Waiting, false, "Unschedulable: 0/4 nodes are available: 4 Insufficient nvidia.com/gpu."}},
		"image missing": {
			pod:  waiting("ImagePullBackOff", `Back-off pulling image "worker:9"`),
			want: state{launch.Waiting, false, `ImagePullBackOff: Back-off pulling image "worker:9"`}},
		"secret missing": {
			pod:  waiting("CreateContainerConfigError", `secret "surmise-worker" not found`),
			want: state{launch.Waiting, false, `CreateContainerConfigError: secret "surmise-worker" not found`}},
		"not looked at": {
			pod:  corev1.PodStatus{Phase: corev1.PodPending},
			want: state{launch.Waiting, false, "not scheduled yet"}},
		"running": {
			pod:  corev1.PodStatus{Phase: corev1.PodRunning},
			want: state{launch.Running, false, ""}},
		"node away": {
			pod:  corev1.PodStatus{Phase: corev1.PodUnknown, Reason: "NodeLost"},
			want: state{launch.Running, false, "its node does not answer: NodeLost"}},
		"finished, not counted yet": {
			pod:  corev1.PodStatus{Phase: corev1.PodSucceeded},
			want: state{launch.Ended, false, ""}},
		"finished": {
			pod:  corev1.PodStatus{Phase: corev1.PodSucceeded},
			job:  func(j *batchv1.Job) { j.Status.CompletedIndexes = "0" },
			want: state{launch.Ended, false, ""}},
		"failed, not counted yet": {
			pod:  terminated(1, "Error", "Error: --data-root \"/data\": no such folder\n"),
			want: state{launch.Ended, true, `exit code 1: Error: Error: --data-root "/data": no such folder`}},
		"out of memory": {
			pod:  terminated(137, "OOMKilled", ""),
			job:  func(j *batchv1.Job) { j.Status.FailedIndexes = new("0") },
			want: state{launch.Ended, true, "exit code 137: OOMKilled"}},
		"preempted, another follows": {
			pod:  evicted(terminated(143, "Error", "")),
			want: state{launch.Waiting, false, "its pod was taken away: PreemptionByScheduler: default-scheduler: preempting to accommodate a higher priority pod"}},
		"at its time limit": {
			pod:  corev1.PodStatus{Phase: corev1.PodFailed, Reason: "DeadlineExceeded", Message: "Pod was active on the node longer than the specified deadline"},
			job:  func(j *batchv1.Job) { j.Status.FailedIndexes = new("0") },
			want: state{launch.Ended, false, "DeadlineExceeded: Pod was active on the node longer than the specified deadline"}},
		"Job failed": {
			pod: terminated(2, "Error", ""),
			job: func(j *batchv1.Job) {
				j.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobFailed, Status: corev1.ConditionTrue, Reason: "BackoffLimitExceeded"}}
			},
			want: state{launch.Ended, true, "exit code 2: Error"}},
		"being deleted": {
			pod:  corev1.PodStatus{Phase: corev1.PodRunning},
			job:  func(j *batchv1.Job) { j.DeletionTimestamp = new(metav1.NewTime(time.Unix(9, 0))) },
			want: state{launch.Ended, false, "its Job is being deleted"}},
	} {
		t.Run(name, func(t *testing.T) {
			job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "lab-cpu-1", UID: "j"}, Spec: batchv1.JobSpec{Completions: new(int32(1))}}
			if c.job != nil {
				c.job(job)
			}
			pod := podOf(job, 0, "p")
			pod.Status = c.pod
			got := viewOf(job, []corev1.Pod{*pod}).workers()
			if len(got) != 1 {
				t.Fatalf("got %v", got)
			}
			if want := (launch.Worker{Name: "lab-cpu-1-0", State: c.want.state, Failed: c.want.failed, Reason: c.want.reason}); got[0] != want {
				t.Errorf("got  %v\nwant %v", got[0], want)
			}
		})
	}
}

// A failed index whose pod is gone, and the newest of several pods.
func TestIndexes(t *testing.T) {
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "lab-cpu-1"}, Spec: batchv1.JobSpec{Completions: new(int32(5))},
		Status: batchv1.JobStatus{CompletedIndexes: "0,4", FailedIndexes: new("1")}}
	at := func(second int64, name string, status corev1.PodStatus) corev1.Pod {
		pod := podOf(job, 2, name)
		pod.CreationTimestamp, pod.Status = metav1.NewTime(time.Unix(second, 0)), status
		return *pod
	}
	pods := []corev1.Pod{
		at(3, "c", corev1.PodStatus{Phase: corev1.PodRunning}),
		at(1, "a", evicted(terminated(143, "Error", ""))),
		at(4, "d", corev1.PodStatus{Phase: corev1.PodFailed}), // later, but over
	}
	var states []launch.State
	for _, w := range viewOf(job, pods).workers() {
		states = append(states, w.State)
	}
	if want := []launch.State{launch.Ended, launch.Ended, launch.Running, launch.Waiting, launch.Ended}; !slices.Equal(states, want) {
		t.Errorf("got %v, want %v", states, want)
	}
	if w := viewOf(job, pods).workers()[1]; !w.Failed || w.Reason == "" {
		t.Errorf("failed, pod gone: %v", w)
	}
}

func TestParseIndexes(t *testing.T) {
	for text, want := range map[string][]int{
		"": nil, "0": {0}, "1,3-5": {1, 3, 4, 5}, "2-900000000": {2, 3, 4, 5}, "-1,x,7,4-": nil, "5-3": nil, "99999999999999999999": nil,
	} {
		if got := slices.Sorted(maps.Keys(parseIndexes(text, 6))); !slices.Equal(got, want) {
			t.Errorf("%q: got %v, want %v", text, got, want)
		}
	}
}

// Where there is no pod, events say why.
func TestEvents(t *testing.T) {
	event := func(name, kind, object, reason, message string, second int64) *corev1.Event {
		return &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}, InvolvedObject: corev1.ObjectReference{Kind: kind, Name: object},
			Reason: reason, Message: message, LastTimestamp: metav1.NewTime(time.Unix(second, 0))}
	}
	const quota = `Error creating: pods "lab-cpu-7-0-x" is forbidden: exceeded quota: cpus, requested: cpu=4, used: cpu=8, limited: cpu=8`
	c := newCluster(t)
	l := c.launcher(t, "lab")
	l.queue = "research"
	start(t, l, batch("cpu", 2, launch.Shape{}))
	admitted := batch("gpu", 1, launch.Shape{})
	start(t, l, admitted)
	suspended := c.job(t, "lab-gpu-7")
	suspended.Spec.Suspend = new(true) // as Kueue's webhook does
	if _, err := c.BatchV1().Jobs(namespace).Update(t.Context(), suspended, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, e := range []*corev1.Event{
		event("a", "Job", "lab-cpu-7", "FailedCreate", "an older word", 5),
		event("b", "Job", "lab-cpu-7", "FailedCreate", quota, 9),
		event("c", "Job", "lab-cpu-7", "SuccessfulCreate", "Created pod", 10),
		event("d", "Job", "lab-cpu-70", "FailedCreate", "of another", 11),
		event("e", "Workload", "job-lab-gpu-7-a1b2c", "Pending", "couldn't assign flavors to pod set main: insufficient quota for nvidia.com/gpu", 6),
		event("f", "Workload", "job-lab-gpu-7-1-a1b2c", "Pending", "of another", 7),
	} {
		if _, err := c.CoreV1().Events(namespace).Create(t.Context(), e, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	workers, err := l.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(workers, func(a, b launch.Worker) int { return map[bool]int{true: -1, false: 1}[a.Name < b.Name] })
	want := []launch.Worker{
		{Name: "lab-cpu-7-0", State: launch.Waiting, Reason: "FailedCreate: " + quota},
		{Name: "lab-cpu-7-1", State: launch.Waiting, Reason: "FailedCreate: " + quota},
		{Name: "lab-gpu-7-0", State: launch.Waiting, Reason: "waits for Kueue's queue research: Pending: couldn't assign flavors to pod set main: insufficient quota for nvidia.com/gpu"},
	}
	if !slices.Equal(workers, want) {
		t.Errorf("got  %v\nwant %v", workers, want)
	}
}
