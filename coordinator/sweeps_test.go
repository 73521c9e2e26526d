package coordinator_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/surmise-ml/surmise/coordinator"
	"github.com/surmise-ml/surmise/coordinator/queue"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

func sweepRequest(t testing.TB, text string) *surmisev1.SubmitSweepRequest {
	t.Helper()
	r := &surmisev1.SubmitSweepRequest{}
	if err := protojson.Unmarshal([]byte(text), r); err != nil {
		t.Fatal(err)
	}
	return r
}

func (s *server) sweeps() surmisev1.SweepServiceClient {
	return surmisev1.NewSweepServiceClient(s.conn)
}

func (s *server) submitSweep(text string) *surmisev1.Sweep {
	s.t.Helper()
	sweep, err := s.sweeps().SubmitSweep(s.ctx, sweepRequest(s.t, text))
	if err != nil {
		s.t.Fatal(err)
	}
	return sweep
}

func (s *server) getSweep(name string) *surmisev1.GetSweepResponse {
	s.t.Helper()
	got, err := s.sweeps().GetSweep(s.ctx, &surmisev1.GetSweepRequest{Name: name})
	if err != nil {
		s.t.Fatal(err)
	}
	return got
}

func doneWith(w *worker, l *surmisev1.LeaseRef, loss float64) {
	w.t.Helper()
	w.say(&surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Done{
		Done: &surmisev1.Done{Lease: l, Result: &surmisev1.Result{Metrics: map[string]float64{"loss": loss}}}}})
	w.settled(surmisev1.JobState_SUCCEEDED)
}

const threeRates = `"parameters":[{"path":"train.optimizer.learning_rate","grid":[0.1,0.01,0.001]}]`

func TestSweepFromChildrenToTable(t *testing.T) {
	s := start(t, nil)
	sweep := s.submitSweep(`{"train":{"data":["clips"]},"display_name":"rates",` + threeRates + `}`)
	if sweep.State != surmisev1.SweepState_SWEEP_RUNNING || sweep.Children != 3 || sweep.ChildrenByState["QUEUED"] != 3 ||
		sweep.Request.Metric.GetName() != "loss" || sweep.Request.Metric.GetGoal() != surmisev1.Goal_MINIMIZE {
		t.Errorf("submitted %v", sweep)
	}
	w := s.ready("w")
	for i, loss := range []float64{0.5, 0.25} {
		lease := w.lease()
		job := s.get(lease.Lease.Job)
		if job.Sweep != sweep.Name || job.DisplayName != fmt.Sprint("rates #", i) ||
			lease.Spec.GetTrain().Optimizer.LearningRate != []float64{0.1, 0.01}[i] || lease.Spec.GetTrain().Steps != 600 {
			t.Errorf("child %d is %v", i, job)
		}
		doneWith(w, lease.Lease, loss)
		w.ready()
	}
	third := w.lease()
	w.beat(third.Lease, &surmisev1.Progress{Phase: "training", Step: 7, Steps: 600, Loss: 0.125})

	got := s.getSweep(sweep.Name)
	if best := got.Sweep.Best; best.GetIndex() != 1 || best.GetMetric() != 0.25 || best.Values["train.optimizer.learning_rate"] != "0.01" {
		t.Errorf("best %v, want the one that succeeded with the smaller loss", best)
	}
	row := got.Children[2]
	if len(got.Children) != 3 || row.GetMetric() != 0.125 || row.Step != 7 || row.Steps != 600 || row.State != surmisev1.JobState_RUNNING || row.Job != third.Lease.Job {
		t.Errorf("the running child's row is %v", row)
	}
	doneWith(w, third.Lease, 0.125)
	if got := s.getSweep(sweep.Name).Sweep; got.State != surmisev1.SweepState_SWEEP_ENDED || got.Best.Index != 2 || got.ChildrenByState["SUCCEEDED"] != 3 {
		t.Errorf("at the end %v", got)
	}
}

func TestSweepPagesAndLists(t *testing.T) {
	s := start(t, nil)
	sweep := s.submitSweep(`{"train":{"data":["clips"]},"seeds":[1,2,3,4,5]}`)
	var indices []int32
	req := &surmisev1.GetSweepRequest{Name: sweep.Name, PageSize: 2}
	for {
		page, err := s.sweeps().GetSweep(s.ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range page.Children {
			indices = append(indices, c.Index)
		}
		if req.PageToken = page.NextPageToken; req.PageToken == "" {
			break
		}
	}
	if fmt.Sprint(indices) != "[0 1 2 3 4]" {
		t.Errorf("children %v", indices)
	}
	other := s.submitSweep(`{"train":{"data":["clips"]}}`)
	first, err := s.sweeps().ListSweeps(s.ctx, &surmisev1.ListSweepsRequest{PageSize: 1})
	if err != nil || len(first.Sweeps) != 1 || first.Sweeps[0].Name != other.Name || first.NextPageToken == "" {
		t.Fatalf("first page %v, %v", first, err)
	}
	second, err := s.sweeps().ListSweeps(s.ctx, &surmisev1.ListSweepsRequest{PageSize: 1, PageToken: first.NextPageToken})
	if err != nil || len(second.Sweeps) != 1 || !proto.Equal(second.Sweeps[0], sweep) || second.NextPageToken != "" {
		t.Errorf("second page %v, %v", second, err)
	}
	_, err = s.sweeps().GetSweep(s.ctx, &surmisev1.GetSweepRequest{Name: sweep.Name, PageToken: first.NextPageToken})
	wantField(t, err, "page_token")
	_, err = s.sweeps().ListSweeps(s.ctx, &surmisev1.ListSweepsRequest{PageToken: "x"})
	wantField(t, err, "page_token")
}

func TestSweepIsRefusedByField(t *testing.T) {
	s := start(t, nil)
	for text, field := range map[string]string{
		`{"train":{"data":["c"]},"parameters":[{"path":"train.step","grid":[1]}]}`:      "parameters[0].path",
		`{"train":{"data":["c"]},"parameters":[{"path":"train.model.dim","grid":[9]}]}`: "parameters[0]",
		`{"train":{"data":["c"]},"parameters":[{"path":"train.steps"}]}`:                "parameters[0].values",
		`{"train":{"data":["c"]},"seeds":[1,1]}`:                                        "seeds",
		`{"train":{"data":["c"]},"halving":{"min_steps":0}}`:                            "halving.min_steps",
		`{"train":{"data":["c"]},"collapse":{"min_effective_rank":0}}`:                  "collapse.min_effective_rank",
		`{"score":{"pairs":"p","model":"jobs/none"}}`:                                   "score.model",
		`{"parameters":[]}`:                             "spec",
		`{"train":{"data":["c"]},"metric":{"name":""}}`: "metric.name",
		`{"train":{"data":["c"]},"samples":1,"parameters":[{"path":"train.optimizer.ema_end","uniform":{"min":0,"max":"Infinity"}}]}`: "parameters[0].uniform.max",
	} {
		_, err := s.sweeps().SubmitSweep(s.ctx, sweepRequest(t, text))
		wantField(t, err, field)
	}
	if list, err := s.sweeps().ListSweeps(s.ctx, &surmisev1.ListSweepsRequest{}); err != nil || len(list.Sweeps) != 0 {
		t.Errorf("something was stored: %v, %v", list, err)
	}
	_, err := s.sweeps().GetSweep(s.ctx, &surmisev1.GetSweepRequest{Name: "sweeps/none"})
	wantCode(t, err, codes.NotFound)
	_, err = s.sweeps().CancelSweep(s.ctx, &surmisev1.CancelSweepRequest{Name: "sweeps/none"})
	wantCode(t, err, codes.NotFound)
	_, err = s.sweeps().CancelSweep(s.ctx, &surmisev1.CancelSweepRequest{Name: "jobs/none"})
	wantField(t, err, "name")

	checked := s.submitSweep(`{"train":{"data":["c"]},"validate_only":true,"seeds":[1,2]}`)
	if checked.Name != "" || checked.Children != 2 {
		t.Errorf("only checked: %v", checked)
	}
}

func TestSweepRequestIDMakesOneSweep(t *testing.T) {
	s := start(t, nil)
	const text = `{"train":{"data":["c"]},"request_id":"r","seeds":[1,2]}`
	first := s.submitSweep(text)
	if again := s.submitSweep(text); !proto.Equal(again, first) {
		t.Errorf("again %v\nfirst %v", again, first)
	}
	_, err := s.sweeps().SubmitSweep(s.ctx, sweepRequest(t, `{"train":{"data":["c"]},"request_id":"r","seeds":[1]}`))
	wantCode(t, err, codes.AlreadyExists)
}

func TestCancelSweepStopsItsWorkers(t *testing.T) {
	s := start(t, nil)
	sweep := s.submitSweep(`{"train":{"data":["clips"]},` + threeRates + `}`)
	w := s.ready("w")
	lease := w.lease()
	w.beat(lease.Lease, nil)
	cancelled, err := s.sweeps().CancelSweep(s.ctx, &surmisev1.CancelSweepRequest{Name: sweep.Name})
	if err != nil || cancelled.State != surmisev1.SweepState_SWEEP_RUNNING || cancelled.CancelTime == nil ||
		cancelled.ChildrenByState["CANCELLED"] != 2 || cancelled.ChildrenByState["CANCELLING"] != 1 {
		t.Fatalf("cancelled %v, %v", cancelled, err)
	}
	if got := hear(w, (*surmisev1.AttachResponse).GetCancel); got.Lease.Job != lease.Lease.Job {
		t.Errorf("told to stop %v", got)
	}
	w.handedBack(lease.Lease, "cancelled")
	w.settled(surmisev1.JobState_CANCELLED)
	got := s.getSweep(sweep.Name)
	if got.Sweep.State != surmisev1.SweepState_SWEEP_CANCELLED || got.Children[0].Reason != "its sweep was cancelled" || got.Sweep.Best != nil {
		t.Errorf("at the end %v", got)
	}
}

// A child is judged when it comes to a rung, also by a coordinator that was started since.
func TestHalvingEndsWhoIsBehind(t *testing.T) {
	s := start(t, nil)
	sweep := s.submitSweep(`{"train":{"data":["clips"],"steps":100},"halving":{"min_steps":10,"reduction":2},` + threeRates + `}`)
	losses := map[int]float64{0: 0.5, 1: 0.9}
	var leases [3]*surmisev1.LeaseRef
	var workers [3]*worker
	for i := range workers {
		workers[i] = s.ready(fmt.Sprint("w", i))
		leases[i] = workers[i].lease().Lease
		workers[i].beat(leases[i], &surmisev1.Progress{Phase: "training", Step: 9, Loss: 9}) // below the rung
	}
	workers[0].beat(leases[0], &surmisev1.Progress{Phase: "training", Step: 10, Loss: losses[0]})
	workers[1].heartbeat(leases[1], 1, &surmisev1.Progress{Phase: "training", Step: 12, Loss: losses[1]})
	hear(workers[1], (*surmisev1.AttachResponse).GetRenewed)
	if got := hear(workers[1], (*surmisev1.AttachResponse).GetCancel); got.Lease.Job != leases[1].Job {
		t.Errorf("told to stop %v", got)
	}
	workers[1].handedBack(leases[1], "cancelled")
	workers[1].settled(surmisev1.JobState_CANCELLED)

	s.down()
	s.up(nil)
	third := s.attach("w2", leases[2])
	hear(third, (*surmisev1.AttachResponse).GetRenewed)
	third.beat(leases[2], &surmisev1.Progress{Phase: "training", Step: 10, Loss: 0.25})
	third.beat(leases[2], &surmisev1.Progress{Phase: "training", Step: 11, Loss: 5}) // judged once a rung
	doneWith(third, leases[2], 0.2)

	got := s.getSweep(sweep.Name)
	stopped := got.Children[1]
	if stopped.State != surmisev1.JobState_CANCELLED || !strings.Contains(stopped.Reason, "halving: loss 0.9 at step 10 is number 2 of 2") || stopped.GetMetric() != 0.9 {
		t.Errorf("who was behind: %v", stopped)
	}
	if got.Sweep.Best.GetIndex() != 2 {
		t.Errorf("best %v", got.Sweep.Best)
	}
}

// Who has done its last step is not ended for being behind: the work is there, and the worst of two may be asked for.
func TestHalvingKeepsWhatIsDone(t *testing.T) {
	s := start(t, nil)
	sweep := s.submitSweep(`{"train":{"data":["clips"],"steps":20},"halving":{"min_steps":10,"reduction":2},` + threeRates + `}`)
	for i, loss := range []float64{0.1, 0.9, 0.5} {
		w := s.ready(fmt.Sprint("w", i))
		lease := w.lease().Lease
		w.beat(lease, &surmisev1.Progress{Phase: "training", Step: 20, Steps: 20, Loss: loss})
		doneWith(w, lease, loss)
	}
	for i, child := range s.getSweep(sweep.Name).Children {
		if child.State != surmisev1.JobState_SUCCEEDED {
			t.Errorf("child %d: %v", i, child)
		}
	}
}

func TestCollapsedChildIsEnded(t *testing.T) {
	s := start(t, nil)
	sweep := s.submitSweep(`{"train":{"data":["clips"]},"collapse":{"min_effective_rank":3}}`)
	w := s.ready("w")
	lease := w.lease().Lease
	w.beat(lease, &surmisev1.Progress{Phase: "training", Step: 10, EffectiveRank: 20})
	w.beat(lease, &surmisev1.Progress{Phase: "training", Step: 20, EffectiveRank: 1.25})
	hear(w, (*surmisev1.AttachResponse).GetCancel)
	w.handedBack(lease, "cancelled")
	w.settled(surmisev1.JobState_CANCELLED)
	row := s.getSweep(sweep.Name).Children[0]
	if row.State != surmisev1.JobState_CANCELLED || row.Reason != "ended early: collapsed: effective rank 1.25 at step 20 is below 3" {
		t.Errorf("got %v", row)
	}
}

// BenchmarkSweepOf10000 is SubmitSweep from the call to the answer: expanded, checked, and on disk in SQLite.
func BenchmarkSweepOf10000(b *testing.B) {
	store, err := queue.OpenSQLite(b.Context(), filepath.Join(b.TempDir(), "jobs.db"), time.Now)
	if err != nil {
		b.Fatal(err)
	}
	defer store.Close()
	srv, err := coordinator.New(coordinator.Config{Store: store, ArtifactDir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	request := sweepRequest(b, `{"train":{"data":["clips"]},"samples":10000,"parameters":[
		{"path":"train.optimizer.learning_rate","log_uniform":{"min":0.00001,"max":0.01}},
		{"path":"train.optimizer.ema_start","uniform":{"min":0.9,"max":0.999}}]}`)
	for b.Loop() {
		sweep, err := srv.SubmitSweep(b.Context(), request)
		if err != nil || sweep.Children != 10000 {
			b.Fatalf("%v, %v", sweep, err)
		}
	}
}
