package compare

import "fmt"

// column is one model, or one twin: what tables are made of.
type column struct {
	name string
	sets []*Set // one per seed, in the order of the file's videos
	file *File  // whose spec and videos they share
}

// surprise is what an aggregation makes of every seed's videos, [seeds][N].
func (c *column) surprise(a Aggregation) ([][]float64, error) {
	out := make([][]float64, len(c.sets))
	for k, set := range c.sets {
		var err error
		if out[k], err = set.Videos(c.file, a); err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return out, nil
}

// whole is the same for judging whole groups.
func (c *column) whole(a Aggregation) ([][]float64, error) {
	out := make([][]float64, len(c.sets))
	for k, set := range c.sets {
		var err error
		if out[k], err = set.whole(c.file, a); err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return out, nil
}

// surprises is what columns make of every video, and what whole groups are judged by, [columns][seeds][N] each.
func surprises(columns []column, a Aggregation) (videos, whole [][][]float64, err error) {
	videos, whole = make([][][]float64, len(columns)), make([][][]float64, len(columns))
	for i := range columns {
		if videos[i], err = columns[i].surprise(a); err != nil {
			return nil, nil, err
		}
		if whole[i], err = columns[i].whole(a); err != nil {
			return nil, nil, err
		}
	}
	return videos, whole, nil
}
