package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/surmise-ml/surmise/cmd/dial"
	"github.com/surmise-ml/surmise/cmd/worker/workercmd"
	"github.com/surmise-ml/surmise/coordinator"
	"github.com/surmise-ml/surmise/video/synth"
)

// What Prometheus reads of a worker at work: a job trains, its idle decoders are killed, the next job finds out, and the
// counter says so.
func TestMetricsOverHTTP(t *testing.T) {
	dir := t.TempDir()
	made, err := synth.Generate(t.Context(), synth.Options{Dir: filepath.Join(dir, "videos"), Clips: 3, Size: 32, Frames: 16}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(made.ClipsDir, "broken.mp4"), []byte("no video"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	serving, metrics, ended := make(chan net.Addr, 1), make(chan net.Addr, 1), make(chan error, 1)
	go func() {
		ended <- up(ctx, upOptions{
			listen: "127.0.0.1:0", dataDir: filepath.Join(dir, "state"), lease: coordinator.DefaultLeaseDuration,
			cache:       workercmd.CacheOptions{Dir: "none"}, // what is known already needs no decoder
			metricsAddr: "127.0.0.1:0", metricsServing: func(a net.Addr) { metrics <- a },
		}, func(a net.Addr) { serving <- a })
	}()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	var to, url string
	for to == "" || url == "" {
		select {
		case a := <-serving:
			to = "--coordinator=" + a.String()
		case a := <-metrics:
			url = "http://" + a.String() + "/metrics"
		case err := <-ended:
			ended <- err
			t.Fatal(err)
		}
	}
	train := func() {
		t.Helper()
		job := fmt.Sprintf(`{"train":{"data":[%q],"steps":3,"batch":2,"logEvery":1,"sampling":{"maxUnusable":0.5},%s}}`, made.ClipsDir, tinyModel)
		if code, _, shown := surmise(t, job, "submit", to, "-f", "-", "--wait"); code != exitOK {
			t.Fatal(shown)
		}
	}

	client, err := connect(dial.Options{Address: strings.TrimPrefix(to, "--coordinator=")})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	health, err := healthv1.NewHealthClient(client.conn).Check(t.Context(), &healthv1.HealthCheckRequest{Service: "surmise.v1.JobService"})
	if err != nil || health.Status != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("health over gRPC: %v (%v)", health, err)
	}
	if n := value(t, scrape(t, url), `surmise_decoder_starts_total`); n != 0 {
		t.Errorf("%g decoders started before there was a job", n)
	}
	train()
	base := strings.TrimSuffix(url, "metrics")
	for _, page := range []string{"healthz", "readyz"} {
		if said := scrape(t, base+page); said != "ok\n" {
			t.Errorf("%s: %q", page, said)
		}
	}
	text := scrape(t, url)
	for name, want := range map[string]float64{
		`surmise_jobs{state="SUCCEEDED"}`:              1,
		`surmise_jobs{state="QUEUED"}`:                 0,
		`surmise_jobs_ended_total{state="SUCCEEDED"}`:  1,
		`surmise_lease_losses_total{reason="expired"}`: 0,
		`surmise_attempts_total{outcome="done"}`:       1,
		`surmise_worker_attached`:                      1,
		`surmise_training_steps`:                       3,
	} {
		if n := value(t, text, name); n != want {
			t.Errorf("%s is %g, want %g", name, n, want)
		}
	}
	if loss, rank := value(t, text, `surmise_training_loss{part="total"}`), value(t, text, "surmise_collapse_effective_rank"); loss <= 0 || rank < 1 {
		t.Errorf("a loss of %g, an effective rank of %g", loss, rank)
	}
	if n := value(t, text, `surmise_decoder_restarts_total{reason="crashed"}`); n != 0 {
		t.Errorf("%g decoders crashed, want none", n)
	}
	if n := value(t, text, `surmise_video_verdicts_total{reason="usable"}`); n != 3 {
		t.Errorf("%g files usable, want 3", n)
	}
	if n := value(t, text, `surmise_video_verdicts_total{reason="unreadable"}`); n != 1 {
		t.Errorf("%g files unreadable, want 1", n)
	}
	clips := 0.0
	for _, from := range []string{"decoded", "disk", "memory"} {
		clips += value(t, text, fmt.Sprintf(`surmise_clips_total{frames=%q}`, from))
	}
	if clips < 6 {
		t.Errorf("%g clips, want 6 or more: three steps of two", clips)
	}
	if step, wait := value(t, text, "surmise_training_step_seconds"), value(t, text, "surmise_training_data_wait_ratio"); step <= 0 || wait < 0 || wait > 1 {
		t.Errorf("a step of %g s, %g of it waiting", step, wait)
	}

	checkDashboards(t, text)

	started := int(value(t, text, "surmise_decoder_starts_total"))
	if killed := killChildren(t); killed != started || killed == 0 {
		t.Fatalf("killed %d decoders of %d", killed, started)
	}
	train()
	text = scrape(t, url)
	crashed, now := value(t, text, `surmise_decoder_restarts_total{reason="crashed"}`), value(t, text, "surmise_decoder_starts_total")
	if crashed < 1 || int(now) <= started {
		t.Errorf("%g restarts and %g starts after %d decoders were killed", crashed, now, started)
	}

	if status, _ := get(t, base); status != http.StatusNotFound {
		t.Errorf("status %d beside /metrics, want 404", status)
	}
	if code, _, shown := surmise(t, "", "worker", to, "--metrics-addr", strings.Split(url, "/")[2], "--data-dir", dir, "--cache-dir", "none"); code != exitUsage || !strings.Contains(shown, "--metrics-addr") {
		t.Errorf("an address in use: exit code %d: %s", code, shown)
	}
}

func scrape(t *testing.T, url string) string {
	t.Helper()
	status, text := get(t, url)
	if status != http.StatusOK {
		t.Fatalf("%s: status %d: %s", url, status, text)
	}
	return text
}

func get(t *testing.T, url string) (status int, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatalf("%s: %v", url, err)
	}
	return answer.StatusCode, string(body)
}

// value is that of one metric in what a scrape read.
func value(t *testing.T, text, name string) float64 {
	t.Helper()
	found := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (\S+)$`).FindStringSubmatch(text)
	if found == nil {
		t.Fatalf("no %s in\n%s", name, text)
	}
	v, err := strconv.ParseFloat(found[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// killChildren kills this process's decoders and returns when they have ended. Their parent has not looked yet.
func killChildren(t *testing.T) int {
	t.Helper()
	lists, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil || len(lists) == 0 {
		t.Fatalf("this kernel lists no children (%v)", err)
	}
	killed := 0
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			continue // a thread that has ended
		}
		for _, word := range strings.Fields(string(text)) {
			pid, err := strconv.Atoi(word)
			if err != nil {
				t.Fatal(err)
			}
			fd, err := unix.PidfdOpen(pid, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := unix.Kill(pid, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			for {
				_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 60_000)
				if err == nil {
					break
				}
				if err != unix.EINTR {
					t.Fatal(err)
				}
			}
			_ = unix.Close(fd)
			killed++
		}
	}
	return killed
}
