package trainer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/surmise-ml/surmise/trainer/checkpoint"
	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/trainer/parallel"
	"github.com/surmise-ml/surmise/video"
)

// share is the part of every batch that this process trains on: clips rank·clips up to (rank+1)·clips of it. Every
// process knows the whole batch's masks, since they follow from the seed, takes its part of them, and weighs its losses
// by the whole; so the sums of losses and gradients over all processes are the batch's. Each then takes the same step with
// its own copy of the weights, the moments and the target encoder, which need no messages.
type share struct {
	group parallel.Group // nil: this process trains alone, on all of it
	rank  int
	size  int // processes
	batch int // clips of all
	clips int // clips of this process
}

// alone is all of every batch.
func alone(cfg Config) share { return share{size: 1, batch: cfg.Batch, clips: cfg.Batch} }

func newShare(cfg Config, group parallel.Group) (share, error) {
	s := alone(cfg)
	if group == nil {
		return s, nil
	}
	s.group = group
	s.rank, s.size = group.Rank(), group.Size()
	if s.clips = cfg.Batch / s.size; s.clips*s.size != cfg.Batch {
		return s, fmt.Errorf("batch is %d, which %d processes do not share evenly", cfg.Batch, s.size)
	}
	return s, nil
}

// leads tells whether this process reports, and writes checkpoints.
func (s share) leads() bool { return s.rank == 0 }

// of returns this process's part of what there is k of for each clip.
func of[T any](s share, all []T) []T {
	if s.group == nil || len(all) == 0 {
		return all
	}
	k := len(all) / s.batch
	return all[s.rank*s.clips*k : (s.rank+1)*s.clips*k]
}

// tokens counts the predicted tokens of the whole batch in each mask group; nil where this process has all of it.
func (s share) tokens(hidden [][]int32, groups, ofClip int) []int {
	if s.group == nil {
		return nil
	}
	if len(hidden) == 0 { // no masks: every clip is predicted alike
		return []int{s.batch * ofClip}
	}
	counts := make([]int, groups)
	for k, list := range hidden {
		counts[k%groups] += len(list)
	}
	return counts
}

// first is the index, in the run, of this process's first clip of a step, counted from 1.
func (s share) first(step, batch int) int64 {
	return int64(step-1)*int64(batch) + int64(s.rank*s.clips)
}

// sampled has a feed, which counts this process's clips alone, draw those of the run.
type sampled struct {
	video.Sampler
	share
}

func (s sampled) Sample(ctx context.Context, seed uint64, index int64, dst []float32) (video.SampleInfo, error) {
	step, clip := index/int64(s.clips), index%int64(s.clips)
	return s.Sampler.Sample(ctx, seed, s.first(int(step)+1, s.batch)+clip, dst)
}

// stopTogether says whether any process was told to stop. Without it one would wait for the sums of another that has
// left.
func (s share) stopTogether(stop bool) (bool, error) {
	if s.group == nil {
		return stop, nil
	}
	flag := []float64{0}
	if stop {
		flag[0] = 1
	}
	err := s.group.AddDoubles(flag)
	return flag[0] > 0, err
}

// sameRun fails unless all processes were given the same config, see the same videos and compute in one precision.
func (s share) sameRun(cfg Config, precision cpu.Precision, videos checkpoint.Dataset) error {
	if s.group == nil {
		return nil
	}
	cfg.Threads, cfg.Encoder.From, cfg.Init.From, cfg.Data.Roots = 0, "", "", nil // may differ from machine to machine
	cfg.Precision = ""                                                            // auto may mean another one elsewhere
	config, err := json.Marshal(cfg)
	if err != nil {
		return err
	}
	return errors.Join(
		parallel.Same(s.group, "the precision", crc32.Checksum([]byte(precision), castagnoli)),
		parallel.Same(s.group, "the config", crc32.Checksum(config, castagnoli)),
		parallel.Same(s.group, "the videos", crc32.Checksum([]byte(videos.SHA256+" "+videos.Content), castagnoli)))
}

// spread gives all processes the state that the first one begins with: its step, and tensors.
func (s share) spread(step int, tensors ...[]checkpoint.Tensor) (int, error) {
	if s.group == nil {
		return step, nil
	}
	number := []float64{0}
	if s.leads() {
		number[0] = float64(step)
	}
	if err := s.group.AddDoubles(number); err != nil {
		return 0, err
	}
	for _, list := range tensors {
		for _, t := range list {
			if err := s.group.Broadcast(checkpoint.Bytes(t.Data)); err != nil {
				return 0, fmt.Errorf("tensor %s: %w", t.Name, err)
			}
		}
	}
	return int(number[0]), nil
}

// sameWeights fails on all processes if their weights have parted, which only a fault of a machine or of the network can
// bring about.
func (s share) sameWeights(step int, weights []checkpoint.Tensor) error {
	if s.group == nil {
		return nil
	}
	var sum uint32
	for _, t := range weights {
		sum = crc32.Update(sum, castagnoli, checkpoint.Bytes(t.Data))
	}
	return parallel.Same(s.group, fmt.Sprintf("the weights after step %d", step), sum)
}
