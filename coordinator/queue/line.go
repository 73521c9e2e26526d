package queue

import "context"

// line is the first jobs of a class that may be leased.
type line struct {
	class
	first []int64 // their sequences, of which class.head is the first
	over  bool    // there are no others behind them
}

// fillLines reads the first jobs of the classes from which the workers may be served next: enough, mostly, to serve all of
// them from these.
func fillLines(ctx context.Context, t tx, lines []line, workers []Worker) error {
	next := turns(lines, workers)
	if len(next) == 0 {
		return nil
	}
	enough := min(len(workers), 2+2*len(workers)/len(next))
	for _, l := range next {
		if len(l.first) > 0 {
			continue
		}
		l.first = make([]int64, 0, enough)
		err := t.askLater(ctx, readyOf, func(row scanner) error {
			var sequence int64
			err := row.Scan(&sequence)
			l.first = append(l.first, sequence)
			return err
		}, l.name, l.head, t.now().UnixMicro(), enough)
		if err != nil {
			return err
		}
	}
	if err := t.flush(ctx); err != nil {
		return err
	}
	for _, l := range next {
		l.over = len(l.first) < enough
		if len(l.first) > 0 {
			l.head = l.first[0]
		}
	}
	return nil
}

// turns are the lines from which one of the workers is served next: for each, those of the highest priority that it serves.
func turns(lines []line, workers []Worker) (next []*line) {
	wanted := make([]bool, len(lines))
	for _, w := range workers {
		var mine []int
		for i, l := range lines {
			if l.over && len(l.first) == 0 || w.Lacks(l.needs) != "" || len(mine) > 0 && lines[mine[0]].priority > l.priority {
				continue
			}
			if len(mine) > 0 && lines[mine[0]].priority < l.priority {
				mine = mine[:0]
			}
			mine = append(mine, i)
		}
		for _, i := range mine {
			wanted[i] = true
		}
	}
	for i := range lines {
		if wanted[i] {
			next = append(next, &lines[i])
		}
	}
	return next
}

// choose picks a job for each worker, as next says, and counts it to its owner. It stops where a line is used up
// of which there may be more; the workers from there on are left.
func choose(lines []line, s *share, workers []Worker) (picks []pick, left []Worker) {
	open := make([]class, 0, len(lines))
	at := make([]int, 0, len(lines)) // of those, among the lines
	for i, l := range lines {
		if !l.over || len(l.first) > 0 {
			open, at = append(open, l.class), append(at, i)
		}
	}
	for i, w := range workers {
		best := next(open, s, w)
		if best < 0 {
			continue
		}
		l := &lines[at[best]]
		if len(l.first) == 0 {
			return picks, workers[i:]
		}
		picks = append(picks, pick{w, l.owner, l.first[0]})
		s.serve(l.owner)
		l.head, l.first = l.first[0]+1, l.first[1:]
		switch {
		case len(l.first) > 0:
			l.head = l.first[0]
		case l.over:
			open, at = append(open[:best], open[best+1:]...), append(at[:best], at[best+1:]...)
			continue
		}
		open[best].head = l.head
	}
	return picks, nil
}
