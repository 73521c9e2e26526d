package kubernetes

import (
	"context"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
)

// eventWords are the newest words on why Jobs have no pods: of the Job controller, which could not create one (a quota, a
// policy), and of Kueue, whose Workload of the Job is not admitted.
type eventWords struct {
	failed  map[string]spoken // by the Job's name
	waiting map[string]spoken // by the Workload's name
}

type spoken struct {
	at    time.Time
	words string
}

// maxEvents bounds what is read of a namespace's events.
const maxEvents = 5000

func (l *Launcher) events(ctx context.Context) (eventWords, error) {
	w := eventWords{failed: map[string]spoken{}, waiting: map[string]spoken{}}
	if err := l.read(ctx, "Job", "FailedCreate", w.failed); err != nil {
		return w, err
	}
	if l.queue == "" {
		return w, nil
	}
	return w, l.read(ctx, "Workload", "Pending", w.waiting)
}

// read keeps the newest event of each object of a kind, for one reason.
func (l *Launcher) read(ctx context.Context, kind, reason string, into map[string]spoken) error {
	options := metav1.ListOptions{Limit: pageSize, FieldSelector: fields.SelectorFromSet(fields.Set{"involvedObject.kind": kind, "reason": reason}).String()}
	for read := 0; ; {
		page, err := l.cluster.Core.Events(l.cluster.Namespace).List(ctx, options)
		if err != nil {
			return l.wrap("listing the events of", "", err)
		}
		for _, e := range page.Items {
			if at := when(e); e.InvolvedObject.Kind == kind && e.Reason == reason && !at.Before(into[e.InvolvedObject.Name].at) {
				into[e.InvolvedObject.Name] = spoken{at, join("", e.Reason, e.Message)}
			}
		}
		read += len(page.Items)
		if options.Continue = page.Continue; options.Continue == "" || read >= maxEvents {
			return nil
		}
	}
}

func when(e corev1.Event) time.Time {
	if e.Series != nil {
		return e.Series.LastObservedTime.Time
	}
	if !e.LastTimestamp.IsZero() {
		return e.LastTimestamp.Time
	}
	return e.EventTime.Time
}

// of is why a Job has no pods.
func (w eventWords) of(job *batchv1.Job) string {
	if job.Spec.Suspend != nil && *job.Spec.Suspend {
		queue := job.Labels[labelQueue]
		if queue == "" {
			return "its Job is suspended"
		}
		var newest spoken
		for name, s := range w.waiting { // Kueue names a Job's Workload job-NAME-HASH
			if rest, ok := strings.CutPrefix(name, "job-"+job.Name+"-"); ok && !strings.Contains(rest, "-") && s.at.After(newest.at) {
				newest = s
			}
		}
		return join("waits for Kueue's queue "+queue, "", newest.words)
	}
	return w.failed[job.Name].words
}
