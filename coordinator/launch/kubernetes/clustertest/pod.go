package clustertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// podRun is a pod on the node. Its goroutine, live, owns all but what mu guards.
type podRun struct {
	kubelet *Kubelet
	pod     *corev1.Pod // as it was when it came
	ip      string

	mu      sync.Mutex
	stop    chan struct{} // closed when the pod is to end; guarded by mu
	grace   time.Duration // guarded by mu
	stopped bool          // guarded by mu
	process *os.Process   // of the container that runs; nil: none. Guarded by mu.
}

// retry is how long the kubelet waits before it tries again what failed.
const retry = time.Second

// end asks the pod to end.
func (r *podRun) end(grace time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return
	}
	r.stopped, r.grace = true, grace
	close(r.stop)
}

// kill kills what runs.
func (r *podRun) kill() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.process != nil && syscall.Kill(-r.process.Pid, syscall.SIGKILL) == nil
}

func (r *podRun) ending() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stopped
}

// live runs a pod from its arrival to its end: one container, as all of Surmise's pods have.
func (r *podRun) live(ctx context.Context) {
	restarts := int32(0)
	for {
		cmd, log, err := r.prepare(ctx)
		if err != nil {
			r.report(ctx, corev1.PodPending, corev1.ContainerState{Waiting: waitingFor(err)}, restarts, false)
		} else {
			state := r.run(ctx, cmd, log, restarts)
			again := r.pod.Spec.RestartPolicy == corev1.RestartPolicyAlways && !r.ending() && ctx.Err() == nil
			if !again {
				phase := corev1.PodSucceeded
				if state.Terminated.ExitCode != 0 {
					phase = corev1.PodFailed
				}
				r.report(ctx, phase, state, restarts, false)
				break
			}
			restarts++
			r.report(ctx, corev1.PodRunning, corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: state.Terminated.Message}}, restarts, false)
		}
		select {
		case <-ctx.Done():
			return
		case <-r.stop:
		case <-time.After(retry):
		}
		if r.ending() { // it never ran, or runs no more
			r.report(ctx, corev1.PodFailed, corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "ContainerStatusUnknown"}}, restarts, false)
			break
		}
	}
	select {
	case <-ctx.Done():
	case <-r.stop: // deletion is ended by the kubelet
		r.delete(ctx)
	}
}

// waitError is why a container does not start, as a kubelet says it.
type waitError struct {
	reason string
	err    error
}

func (e *waitError) Error() string { return e.err.Error() }
func (e *waitError) Unwrap() error { return e.err }

func waitingFor(err error) *corev1.ContainerStateWaiting {
	reason := "CreateContainerError"
	if w := (*waitError)(nil); errors.As(err, &w) {
		reason = w.reason
	}
	return &corev1.ContainerStateWaiting{Reason: reason, Message: err.Error()}
}

// run runs the container's process to its end.
func (r *podRun) run(ctx context.Context, cmd *exec.Cmd, log string, restarts int32) corev1.ContainerState {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return terminated(128, "StartError", err.Error())
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return terminated(128, "StartError", err.Error())
	}
	r.mu.Lock()
	r.process = cmd.Process
	r.mu.Unlock()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // received below
	began := metav1.Now()
	ready, checks := false, time.NewTicker(r.probePeriod())
	defer checks.Stop()
	r.report(ctx, corev1.PodRunning, corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: began}}, restarts, false)
	stop, kill := r.stop, (<-chan time.Time)(nil)
	for {
		select {
		case err := <-ended:
			r.mu.Lock()
			r.process = nil
			r.mu.Unlock()
			return ending(err, log)
		case <-ctx.Done():
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // it may have ended
			return ending(<-ended, log)
		case <-stop:
			stop = nil
			r.mu.Lock()
			grace := r.grace
			r.mu.Unlock()
			kill = time.After(grace)
			_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		case <-kill:
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // it may have ended
		case <-checks.C:
			if now := r.probe(ctx); now != ready {
				ready = now
				r.report(ctx, corev1.PodRunning, corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: began}}, restarts, ready)
			}
		}
	}
}

func terminated(code int32, reason, message string) corev1.ContainerState {
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason, Message: message, FinishedAt: metav1.Now()}}
}

// ending is how a process ended; one that failed leaves its last words.
func ending(err error, log string) corev1.ContainerState {
	if err == nil {
		return terminated(0, "Completed", "")
	}
	code := int32(128)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = int32(exit.ExitCode())
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			code = 128 + int32(status.Signal())
		}
	}
	return terminated(code, "Error", string(tail(log, 2<<10)))
}

func (r *podRun) probePeriod() time.Duration {
	if p := r.pod.Spec.Containers[0].ReadinessProbe; p != nil && p.PeriodSeconds > 0 {
		return time.Duration(p.PeriodSeconds) * time.Second
	}
	return 24 * time.Hour // nothing to ask
}

// probe asks the readiness probe, over HTTP.
func (r *podRun) probe(ctx context.Context) bool {
	c := r.pod.Spec.Containers[0]
	if c.ReadinessProbe == nil || c.ReadinessProbe.HTTPGet == nil {
		return true
	}
	get := c.ReadinessProbe.HTTPGet
	port := get.Port.String()
	for _, p := range c.Ports {
		if p.Name == port {
			port = fmt.Sprint(p.ContainerPort)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(max(c.ReadinessProbe.TimeoutSeconds, 1))*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(r.ip, port)+get.Path, nil)
	if err != nil {
		return false
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	defer answer.Body.Close()
	return answer.StatusCode < 400
}

// report patches the pod's status. One that is lost is made up for by the next.
func (r *podRun) report(ctx context.Context, phase corev1.PodPhase, state corev1.ContainerState, restarts int32, ready bool) {
	if ctx.Err() != nil {
		return
	}
	c := r.pod.Spec.Containers[0]
	ready = ready || state.Running != nil && c.ReadinessProbe == nil
	is := func(so bool) corev1.ConditionStatus {
		if so {
			return corev1.ConditionTrue
		}
		return corev1.ConditionFalse
	}
	now := metav1.Now()
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": r.pod.UID}, "status": map[string]any{
		"phase": phase, "podIP": r.ip, "podIPs": []corev1.PodIP{{IP: r.ip}}, "hostIP": "127.0.0.1", "startTime": now,
		"conditions": []corev1.PodCondition{
			{Type: corev1.PodInitialized, Status: corev1.ConditionTrue, LastTransitionTime: now},
			{Type: corev1.ContainersReady, Status: is(ready), LastTransitionTime: now},
			{Type: corev1.PodReady, Status: is(ready), LastTransitionTime: now},
		},
		"containerStatuses": []corev1.ContainerStatus{{Name: c.Name, Image: c.Image, Ready: ready, RestartCount: restarts, State: state, Started: new(state.Running != nil)}},
	}})
	if err != nil {
		panic(err) // of plain data
	}
	_, _ = r.kubelet.client.CoreV1().Pods(r.pod.Namespace).Patch(ctx, r.pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
}

// delete ends the deletion of the pod.
func (r *podRun) delete(ctx context.Context) {
	now := int64(0)
	_ = r.kubelet.client.CoreV1().Pods(r.pod.Namespace).Delete(ctx, r.pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: metav1.NewUIDPreconditions(string(r.pod.UID))})
}

// expand replaces $(NAME) by what env has for it, and $$ by $.
func expand(text string, env map[string]string) string {
	var out strings.Builder
	for {
		i := strings.IndexByte(text, '$')
		if i < 0 || i+1 == len(text) {
			return out.String() + text
		}
		out.WriteString(text[:i])
		text = text[i:]
		end := strings.IndexByte(text, ')')
		switch {
		case text[1] == '$':
			out.WriteByte('$')
			text = text[2:]
		case text[1] == '(' && end > 0:
			if value, ok := env[text[2:end]]; ok {
				out.WriteString(value)
			} else {
				out.WriteString(text[:end+1])
			}
			text = text[end+1:]
		default:
			out.WriteByte('$')
			text = text[1:]
		}
	}
}
