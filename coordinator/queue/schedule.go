package queue

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// MaxPriority and −MaxPriority bound a job's priority.
const MaxPriority = 1000

// Scheduling says when a job is served, and by whom. The zero value: in its turn, by any worker.
type Scheduling struct {
	Owner    string    `json:",omitempty"` // who shares fairly with others; "" is one owner like any other
	Priority int       `json:",omitempty"` // higher first, −MaxPriority to MaxPriority
	Needs    Needs     `json:",omitzero"`
	Deadline time.Time `json:",omitzero"` // when it fails if it has not ended; zero: never
}

// Needs is what a worker must have to be given a job. The zero value of a field asks for nothing.
type Needs struct {
	GPUs      int               `json:"gpus,omitempty"`
	Memory    int64             `json:"memory,omitempty"` // bytes
	DataRoots []string          `json:"data_roots,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
}

// Worker is what a worker announces.
type Worker struct {
	Name      string
	GPUs      int
	Memory    int64    // bytes
	DataRoots []string // folders that it reads; none: any
	Labels    map[string]string
}

// Lacks says what of the needs the worker does not have; "" when it has all.
func (w Worker) Lacks(n Needs) string {
	switch {
	case w.GPUs < n.GPUs:
		return fmt.Sprintf("%d GPUs", n.GPUs)
	case w.Memory < n.Memory:
		return fmt.Sprintf("%d bytes of memory", n.Memory)
	}
	for _, root := range n.DataRoots {
		if len(w.DataRoots) > 0 && !slices.ContainsFunc(w.DataRoots, func(have string) bool { return below(root, have) }) {
			return "data root " + root
		}
	}
	for _, name := range slices.Sorted(maps.Keys(n.Labels)) {
		if got, ok := w.Labels[name]; !ok || got != n.Labels[name] {
			return "label " + name + "=" + n.Labels[name]
		}
	}
	return ""
}

// below reports whether name is root or lies below it.
func below(name, root string) bool {
	name, root = path.Clean(name), path.Clean(root)
	return name == root || root == "/" || strings.HasPrefix(name, root+"/")
}

// None reports whether any worker will do.
func (n Needs) None() bool {
	return n.GPUs == 0 && n.Memory == 0 && len(n.DataRoots) == 0 && len(n.Labels) == 0
}

// Normal is s as the store keeps it.
func (s Scheduling) Normal() Scheduling {
	s.Owner = Printable(s.Owner)
	s.Deadline = instant(micros(s.Deadline))
	s.Needs.DataRoots = slices.Compact(slices.Sorted(slices.Values(s.Needs.DataRoots)))
	if len(s.Needs.Labels) == 0 {
		s.Needs.Labels = nil
	}
	return s
}

// text is needs that are Normal as the store keeps them: alike for alike needs, "" for none.
func (n Needs) text() (string, error) {
	if n.None() {
		return "", nil
	}
	text, err := json.Marshal(n)
	return string(text), err
}

func parseNeeds(text string) (n Needs, err error) {
	if text != "" {
		err = json.Unmarshal([]byte(text), &n)
	}
	return n, err
}

// classPrefix is how the classes of a priority begin; they sort by service.
func classPrefix(priority int) string { return fmt.Sprintf("%04d/", MaxPriority-priority) }

// className is short whatever the needs are: it is indexed.
func className(owner string, priority int, needs string) string {
	name := classPrefix(priority) + url.PathEscape(owner) + "/"
	if needs != "" {
		digest := sha256.Sum256([]byte(needs))
		name += hex.EncodeToString(digest[:16])
	}
	return name
}

// after is a text above all that begin with prefix, which ends with "/".
func after(prefix string) string { return strings.TrimSuffix(prefix, "/") + "0" } // '0' follows '/'

// class is jobs that are served alike.
type class struct {
	name     string
	owner    string // as escaped in the name
	priority int
	needs    Needs
	head     int64 // sequence of its first job that may be leased, or less
}

func parseClass(name string) (c class, err error) {
	parts := strings.SplitN(name, "/", 3)
	if len(parts) != 3 {
		return c, fmt.Errorf("class %q: want three parts", name)
	}
	rank, err := strconv.Atoi(parts[0])
	if err != nil {
		return c, fmt.Errorf("class %q: %w", name, err)
	}
	return class{name: name, owner: parts[1], priority: MaxPriority - rank}, nil
}

// next is the class that a free worker serves next, −1 for none: of the highest priority, then of the owner with the
// fewest jobs held, of those who have as many the one who was served longest ago, then of the job submitted first.
func next(classes []class, s *share, w Worker) int {
	best := -1
	for i, c := range classes {
		if w.Lacks(c.needs) != "" {
			continue
		}
		if best >= 0 {
			b := classes[best]
			switch {
			case c.priority != b.priority:
				if c.priority < b.priority {
					continue
				}
			case s.held[c.owner] != s.held[b.owner]:
				if s.held[c.owner] > s.held[b.owner] {
					continue
				}
			case s.served[c.owner] != s.served[b.owner]:
				if s.served[c.owner] > s.served[b.owner] {
					continue
				}
			case c.head >= b.head:
				continue
			}
		}
		best = i
	}
	return best
}

// Place says where the queued jobs of one priority stand, as if workers came free one by one and any could serve them.
type Place struct {
	Above  int             // queued jobs of higher priority
	Owners map[string]Turn // by owner
}

// Turn is an owner's share of a Place.
type Turn struct {
	Queued  int   // jobs queued
	Earlier int   // of those, submitted before the job in question
	Head    int64 // sequence of the first of them
	Last    int64 // turn in which the owner was served last, as this coordinator knows; 0: never
}

// before reports whether its owner comes before another in each turn, as in next, but for the jobs under way.
func (t Turn) before(other Turn) bool {
	if t.Last != other.Last {
		return t.Last < other.Last
	}
	return t.Head < other.Head
}

// Position is the place in the queue, from 1, of the job of this owner that the place is about: owners take turns, and in
// each the one who was served longest ago is first, of those who never were the one who submitted first.
func (p Place) Position(owner string) int {
	mine := p.Owners[owner]
	turn := mine.Earlier + 1
	n := p.Above + turn
	for other, t := range p.Owners {
		if other == owner {
			continue
		}
		n += min(t.Queued, turn-1)
		if t.Queued >= turn && t.before(mine) {
			n++
		}
	}
	return n
}

// Pass makes the place about the next job, after one of this owner.
func (p Place) Pass(owner string) {
	t := p.Owners[owner]
	t.Earlier++
	p.Owners[owner] = t
}

// victims chooses which held jobs give way. waiting is sorted by service, how many wait of each in counts; held are jobs of
// these workers. A job gives way only to one of higher priority that its worker can serve; the lowest priority gives way
// first, and of those the one that was leased last. A job that stops anyway makes room for one without another giving way.
func victims(waiting []class, counts []int, held []Job, workers map[string]Worker) []Job {
	var leaving, staying []Job
	for _, job := range held {
		if _, ok := workers[job.Worker]; !ok {
			continue
		}
		if job.Stop != "" {
			leaving = append(leaving, job)
		} else {
			staying = append(staying, job)
		}
	}
	slices.SortStableFunc(staying, func(a, b Job) int {
		if a.Priority != b.Priority {
			return a.Priority - b.Priority
		}
		return b.Started.Compare(a.Started)
	})
	var chosen []Job
	for i, c := range waiting {
		serves := func(job Job) bool { return workers[job.Worker].Lacks(c.needs) == "" }
		for range counts[i] {
			if at := slices.IndexFunc(leaving, serves); at >= 0 {
				leaving = slices.Delete(leaving, at, at+1)
				continue
			}
			at := slices.IndexFunc(staying, func(job Job) bool { return job.Priority < c.priority && serves(job) })
			if at < 0 {
				break
			}
			chosen = append(chosen, staying[at])
			staying = slices.Delete(staying, at, at+1)
		}
	}
	return chosen
}

// Backoff is how long a job waits after so many attempts in a row were lost to infrastructure: not at all after the first,
// which tells little, then 1 s, doubling up to 5 min.
func Backoff(losses int) time.Duration {
	const first, most = time.Second, 5 * time.Minute
	if losses < 2 {
		return 0
	}
	return min(most, first<<min(losses-2, 16))
}
