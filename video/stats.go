package video

import "sync/atomic"

// PoolStats counts since the pool was made.
type PoolStats struct {
	Started  int64 `json:"started"`   // processes
	Crashed  int64 `json:"crashed"`   // of them, those that ended by themselves
	TimedOut int64 `json:"timed_out"` // that were ended for saying nothing, or taking too long
	TooLarge int64 `json:"too_large"` // for the memory they took
	Garbage  int64 `json:"garbage"`   // for saying what no decoder says

	// Verdicts are those given, remembered ones included: of files inspected, opened for training or read for scoring,
	// and of usable ones that failed later. Key "" counts the usable.
	Verdicts map[Kind]int64 `json:"verdicts"`

	// Clips of training, by where their frames came from, and videos read for scoring, which are decoded.
	ClipsDecoded    int64 `json:"clips_decoded"`
	ClipsFromDisk   int64 `json:"clips_from_disk"`
	ClipsFromMemory int64 `json:"clips_from_memory"`
}

// poolCounters are what PoolStats is read from.
type poolCounters struct {
	started, crashed, timedOut, tooLarge, garbage atomic.Int64
	clipsDecoded, clipsFromDisk, clipsFromMemory  atomic.Int64
	verdicts                                      map[Kind]*atomic.Int64 // every kind, and ""; never changed
}

func newPoolCounters() *poolCounters {
	c := &poolCounters{verdicts: map[Kind]*atomic.Int64{"": {}}}
	for _, kind := range Kinds() {
		c.verdicts[kind] = &atomic.Int64{}
	}
	return c
}

// judged counts a verdict; kind "" is usable.
func (c *poolCounters) judged(kind Kind) {
	if n := c.verdicts[kind]; n != nil { // Kinds is closed; nil would be a kind of tomorrow's
		n.Add(1)
	}
}

// Stats returns what has been counted.
func (p *Pool) Stats() PoolStats {
	c := p.stats
	s := PoolStats{
		Started: c.started.Load(), Crashed: c.crashed.Load(), TimedOut: c.timedOut.Load(),
		TooLarge: c.tooLarge.Load(), Garbage: c.garbage.Load(),
		Verdicts:     make(map[Kind]int64, len(c.verdicts)),
		ClipsDecoded: c.clipsDecoded.Load(), ClipsFromDisk: c.clipsFromDisk.Load(), ClipsFromMemory: c.clipsFromMemory.Load(),
	}
	for kind, n := range c.verdicts {
		s.Verdicts[kind] = n.Load()
	}
	return s
}
