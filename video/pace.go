package video

import "github.com/surmise-ml/surmise/video/wire"

// pace watches whether a video keeps up with the rate that clips are sampled at. What stands still because frames are
// repeated is no motion to predict; training and scoring hold videos to it alike. A video is too slow that has, from its first
// frame to its last, fewer than nine tenths of the frames, or in any stretch of it fewer than that and a quarter of a second
// late: a frame that was dropped here and there passes, a slow beginning or a pause does not.
type pace struct {
	fps    float64
	times  []float64     // s, of the newest frames, at most longest of them
	first  float64       // s
	frames int           // so far
	slow   *wire.Stretch // the first that is too slow
}

const (
	// slowest is the least rate of a video, of the rate that clips are sampled at: measured rates vary with the length.
	slowest = 0.9
	// late is what a stretch may be late beyond that, in seconds, and at least a frame.
	late = 0.25
	// fastest bounds what is looked at together, in frames per second.
	fastest = 120
)

// lateFrames is late in frames.
func (p *pace) lateFrames() float64 { return max(1, late*min(p.fps, fastest)) }

// add takes the next frame.
func (p *pace) add(time float64) {
	if p.frames++; p.frames == 1 {
		p.first = time
	}
	if p.slow != nil {
		return
	}
	allowed := p.lateFrames()
	for i := len(p.times) - 1; i >= 0; i-- {
		n := float64(len(p.times) - i) // intervals
		if p.tooLong(time-p.times[i], n, allowed) {
			p.slow = &wire.Stretch{From: p.times[i], To: time, Intervals: len(p.times) - i}
			return
		}
	}
	// A stretch that is late enough to show is at most so long; a longer one is made of two.
	if longest := int(2 * allowed / (1/slowest - 1)); len(p.times) >= longest {
		p.times = append(p.times[:0], p.times[1:]...)
	}
	p.times = append(p.times, time)
}

func (p *pace) tooLong(seconds, intervals, allowed float64) bool {
	return seconds > max(intervals+allowed, intervals/slowest)/p.fps+timeTolerance
}

// stretch is what is too slow of the frames so far; nil: nothing. From first to last only a whole video is held to the rate: of a
// part of one, a frame that is missing is not made up for by the rest.
func (p *pace) stretch(whole bool) *wire.Stretch {
	if p.slow != nil || p.frames < 2 || !whole {
		return p.slow
	}
	last, intervals := p.times[len(p.times)-1], p.frames-1
	if p.tooLong(last-p.first, float64(intervals), 1) {
		return &wire.Stretch{From: p.first, To: last, Intervals: intervals}
	}
	return nil
}

// tooSlow is the fault of a video that has a stretch too slow for fps; nil without one.
func tooSlow(path string, slow *wire.Stretch, fps float64) *FileError {
	if slow == nil {
		return nil
	}
	return fault(path, TooSlow, ": %.4g fps measured at %.4g s, and clips of %.4g fps would repeat frames", float64(slow.Intervals)/(slow.To-slow.From), slow.From, fps)
}
