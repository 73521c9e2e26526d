package launch

import (
	"fmt"
	"time"
)

// Settings bound what is started. The zero value of a field has the meaning stated.
type Settings struct {
	Prefix string // names begin with it; coordinators that share a store must have the same, all others another; required
	Pools  []Pool // a job is for the first whose workers meet its needs; at least one

	Idle       time.Duration // a worker that has found no work for so long exits, one that still waits is taken back; 0: 1 min
	Interval   time.Duration // between two looks when nothing happens; 0: 10 s
	Settle     time.Duration // how long after a submission to look: a free worker may take the job first; 0: 1 s
	Patience   time.Duration // how long the engine may take to answer; 0: 30 s
	MinBackoff time.Duration // the first wait after a refusal, which doubles; 0: 5 s
	MaxBackoff time.Duration // 0: 5 min
}

// Pool is workers of one shape.
type Pool struct {
	Name  string // required; see CheckPool
	Shape Shape
	Min   int // workers that are kept though nothing waits
	Max   int // workers at any time; 1 or more
}

// Bounds of settings, far above what a sensible installation has.
const (
	maxPools   = 64
	maxWorkers = 100_000
	// maxBatch is how many workers one Start asks for: Slurm's default for the size of an array is 1001.
	maxBatch = 1000
)

func (s Settings) withDefaults() (Settings, error) {
	if err := CheckPrefix(s.Prefix); err != nil {
		return s, fmt.Errorf("launch: prefix %w", err)
	}
	if len(s.Pools) == 0 || len(s.Pools) > maxPools {
		return s, fmt.Errorf("launch: %d pools: want 1 to %d", len(s.Pools), maxPools)
	}
	names := map[string]bool{}
	for i, p := range s.Pools {
		if err := p.check(); err != nil {
			return s, fmt.Errorf("launch: pools[%d]: %w", i, err)
		}
		if names[p.Name] {
			return s, fmt.Errorf("launch: pools[%d]: name %q is taken", i, p.Name)
		}
		names[p.Name] = true
	}
	for _, d := range []struct {
		name      string
		value     *time.Duration
		otherwise time.Duration
	}{
		{"idle", &s.Idle, time.Minute},
		{"interval", &s.Interval, 10 * time.Second},
		{"settle", &s.Settle, time.Second},
		{"patience", &s.Patience, 30 * time.Second},
		{"min_backoff", &s.MinBackoff, 5 * time.Second},
		{"max_backoff", &s.MaxBackoff, 5 * time.Minute},
	} {
		if *d.value < 0 {
			return s, fmt.Errorf("launch: %s %v is negative", d.name, *d.value)
		}
		if *d.value == 0 {
			*d.value = d.otherwise
		}
	}
	if s.MaxBackoff < s.MinBackoff {
		return s, fmt.Errorf("launch: max_backoff %v is below min_backoff %v", s.MaxBackoff, s.MinBackoff)
	}
	return s, nil
}

func (p Pool) check() error {
	if err := CheckPool(p.Name); err != nil {
		return fmt.Errorf("name %w", err)
	}
	switch {
	case p.Max < 1 || p.Max > maxWorkers:
		return fmt.Errorf("max %d: want 1 to %d", p.Max, maxWorkers)
	case p.Min < 0 || p.Min > p.Max:
		return fmt.Errorf("min %d: want 0 to max, %d", p.Min, p.Max)
	case p.Shape.GPUs < 0 || p.Shape.GPUs > 1024:
		return fmt.Errorf("gpus %d: want 0 to 1024", p.Shape.GPUs)
	case p.Shape.CPUs < 0 || p.Shape.CPUs > 65536:
		return fmt.Errorf("cpus %d: want 0 to 65536", p.Shape.CPUs)
	case p.Shape.Memory < 0:
		return fmt.Errorf("memory %d is negative", p.Shape.Memory)
	case len(p.Shape.Labels) > 64:
		return fmt.Errorf("%d labels: want at most 64", len(p.Shape.Labels))
	}
	return nil
}

// Check reports what New would refuse.
func (s Settings) Check() error {
	_, err := s.withDefaults()
	return err
}
