package kubernetes

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/surmise-ml/surmise/coordinator/launch"
)

type ownerID = types.UID

// jobView is a Job with the newest pod of each index.
type jobView struct {
	job   *batchv1.Job
	batch string
	count int
	pods  map[int]*corev1.Pod
	words string // why pods are missing; "" when nothing says so
}

func viewOf(job *batchv1.Job, pods []corev1.Pod) jobView {
	v := jobView{job: job, batch: job.Name, pods: map[int]*corev1.Pod{}}
	if n := job.Spec.Completions; n != nil {
		v.count = int(*n)
	}
	for i := range pods {
		index, err := strconv.Atoi(pods[i].Annotations[batchv1.JobCompletionIndexAnnotation])
		if err != nil || index < 0 || index >= v.count {
			continue
		}
		if old := v.pods[index]; old == nil || newer(&pods[i], old) {
			v.pods[index] = &pods[i]
		}
	}
	return v
}

// newer orders the pods that an index has had: one that has not ended is the newest.
func newer(a, b *corev1.Pod) bool {
	if over(a) != over(b) {
		return over(b)
	}
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name)) > 0
}

func over(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// ended reports whether the Job as a whole is over, or is being deleted.
func (v jobView) ended() bool {
	return v.job.DeletionTimestamp != nil || has(v.job, batchv1.JobComplete, batchv1.JobFailed) != nil
}

// lacksPods reports whether workers wait for which there is no pod.
func (v jobView) lacksPods() bool {
	if v.ended() {
		return false
	}
	return slices.ContainsFunc(v.workers(), func(w launch.Worker) bool { return w.State == launch.Waiting && w.Reason == "" })
}

// workers says of each index where it is.
func (v jobView) workers() []launch.Worker {
	completed := parseIndexes(v.job.Status.CompletedIndexes, v.count)
	failed := map[int]bool{}
	if text := v.job.Status.FailedIndexes; text != nil {
		failed = parseIndexes(*text, v.count)
	}
	all := make([]launch.Worker, v.count)
	for i := range all {
		w := &all[i]
		w.Name = fmt.Sprintf("%s-%d", v.batch, i)
		pod := v.pods[i]
		switch {
		case v.job.DeletionTimestamp != nil:
			w.State, w.Reason = launch.Ended, "its Job is being deleted"
		case completed[i], has(v.job, batchv1.JobComplete) != nil && !failed[i]:
			w.State = launch.Ended
		case failed[i], has(v.job, batchv1.JobFailed) != nil:
			w.State = launch.Ended
			w.Failed, w.Reason = v.fault(pod)
		case pod == nil:
			w.State, w.Reason = launch.Waiting, v.words
		default:
			v.follow(w, pod)
		}
	}
	return all
}

// follow says where the worker of a pod is.
func (v jobView) follow(w *launch.Worker, pod *corev1.Pod) {
	switch pod.Status.Phase {
	case corev1.PodSucceeded:
		w.State = launch.Ended
	case corev1.PodFailed:
		if c := disrupted(pod); c != nil {
			w.State, w.Reason = launch.Waiting, join("its pod was taken away", c.Reason, c.Message)
			return
		}
		w.State = launch.Ended
		w.Failed, w.Reason = v.fault(pod)
	case corev1.PodRunning:
		w.State = launch.Running
	case corev1.PodUnknown:
		w.State, w.Reason = launch.Running, join("its node does not answer", pod.Status.Reason, pod.Status.Message)
	default:
		w.State, w.Reason = launch.Waiting, pendingWords(pod)
	}
}

// fault is why a worker ended without success, and whether that is a failure.
func (v jobView) fault(pod *corev1.Pod) (failed bool, reason string) {
	if pod == nil {
		if c := has(v.job, batchv1.JobFailed); c != nil {
			return true, join("", c.Reason, c.Message)
		}
		return true, "its pod failed and is gone"
	}
	if pod.Status.Reason == "DeadlineExceeded" { // spec.activeDeadlineSeconds: a time limit is no failure
		return false, join("", pod.Status.Reason, pod.Status.Message)
	}
	if pod.Status.Phase == corev1.PodSucceeded {
		return false, ""
	}
	for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if t := s.State.Terminated; t != nil && t.ExitCode != 0 {
			return true, join(fmt.Sprintf("exit code %d", t.ExitCode), t.Reason, t.Message)
		}
	}
	if c := disrupted(pod); c != nil {
		return false, join("", c.Reason, c.Message)
	}
	return true, join("", pod.Status.Reason, pod.Status.Message)
}

func disrupted(pod *corev1.Pod) *corev1.PodCondition {
	return condition(pod, corev1.DisruptionTarget, corev1.ConditionTrue)
}

func condition(pod *corev1.Pod, kind corev1.PodConditionType, status corev1.ConditionStatus) *corev1.PodCondition {
	i := slices.IndexFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == kind && c.Status == status })
	if i < 0 {
		return nil
	}
	return &pod.Status.Conditions[i]
}

// pendingWords is why a pod does not run yet: it finds no node, or a container of it does not start.
func pendingWords(pod *corev1.Pod) string {
	if c := condition(pod, corev1.PodScheduled, corev1.ConditionFalse); c != nil {
		return join("", c.Reason, c.Message)
	}
	for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if w := s.State.Waiting; w != nil && w.Reason != "" {
			return join("", w.Reason, w.Message)
		}
	}
	if pod.Status.Reason != "" {
		return join("", pod.Status.Reason, pod.Status.Message)
	}
	if pod.Spec.NodeName == "" {
		return "not scheduled yet"
	}
	return "its containers are being made on node " + pod.Spec.NodeName
}

// join is what we say, then the cluster's reason and message, without what is empty or said before.
func join(ours, reason, message string) string {
	var parts []string
	for _, p := range []string{ours, reason, strings.TrimSpace(message)} {
		if p != "" && !slices.Contains(parts, p) {
			parts = append(parts, p)
		}
	}
	return strings.Join(parts, ": ")
}

// parseIndexes reads a list such as "0,2-4", as a Job's status holds it. What lies beyond count is no worker's.
func parseIndexes(text string, count int) map[int]bool {
	all := map[int]bool{}
	for part := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(part, "-")
		from, err := strconv.Atoi(first)
		if err != nil {
			continue
		}
		to := from
		if isRange {
			if to, err = strconv.Atoi(last); err != nil {
				continue
			}
		}
		for i := max(from, 0); i <= min(to, count-1); i++ {
			all[i] = true
		}
	}
	return all
}
