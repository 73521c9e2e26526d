package compare

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"

	"gonum.org/v1/gonum/stat"
)

// NoLabel is the label of a video that nobody has called possible or impossible.
const NoLabel = -1

// ErrNoLabels is wrapped by errors about score files whose videos have no labels, where possible and impossible ones are to
// be told apart.
var ErrNoLabels = errors.New("the videos have no labels")

// Unlabelled tells whether the videos of a file have no labels: all of them, or none. They have no groups, properties or
// pairs either, and are for List.
func (f *File) Unlabelled() bool { return len(f.Videos) > 0 && f.Videos[0].Label == NoLabel }

// Listing orders videos without labels by how much they surprise a model. What is much surprise is for other videos to
// say: those of a reference, which are known to be ordinary.
type Listing struct {
	Protocol    string      `json:"protocol,omitempty"` // as in Table
	Aggregation Aggregation `json:"aggregation"`
	Columns     []string    `json:"columns"`             // sets of the score file, the model first
	Reference   *Reference  `json:"reference,omitempty"` // absent: videos are only set beside one another
	Videos      []Listed    `json:"videos"`              // those that surprise the model most first
	// Spearman's rank correlation of the model's surprise and its untrained twin's, over the videos; absent without a twin,
	// below MinRanked videos, or where all of them surprise alike. Near 1, the order is one that seeing without learning
	// makes: of how much moves, say.
	TwinCorrelation *float64  `json:"twin_rank_correlation,omitempty"`
	Skipped         []Skipped `json:"skipped"`
	Warnings        []string  `json:"warnings"`
}

// Listed is one video of a listing.
type Listed struct {
	Video   int              `json:"-"` // its place in the score file
	Path    string           `json:"path"`
	Columns []ListedSurprise `json:"columns"`
	PeakAt  *Place           `json:"peak_at,omitempty"` // where and when it surprises the model most
}

// ListedSurprise is a video to one set. Of Percentile and P there is none without a reference, or where the reference has no
// scores of these weights.
type ListedSurprise struct {
	Surprise   float64  `json:"surprise"`
	Percentile *float64 `json:"percentile,omitempty"` // share of reference videos that surprise less, in percent, one that surprises as much half
	// P is the share of the reference's groups, this video counted as one more, that surprise at least as much: the conformal
	// p-value (Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005). Where the video is like the reference,
	// P is at most p with a probability of at most p.
	P *float64 `json:"p,omitempty"`
}

// Rare says whether P is at most RareP.
func (s ListedSurprise) Rare() bool { return s.P != nil && *s.P <= RareP }

// Reference is what listed videos are judged by.
type Reference struct {
	Videos   int     `json:"videos"`
	Groups   int     `json:"groups"`        // that these are of: videos of one are alike, and count as one together
	Rare     int     `json:"rare"`          // listed videos with P of the model at most RareP
	Expected float64 `json:"rare_expected"` // how many that would be on average, at most, were all of them like the reference
	Shared   int     `json:"shared"`        // listed videos that are in the reference too: each is judged by the others
}

// RareP is the p-value up to which a video counts as rare.
const RareP = 0.05

// fewestOrdinary is of how many groups a reference must be for p to be RareP.
const fewestOrdinary = 19 // 1/RareP - 1

func (r *Reference) tooFew() bool { return r.Groups < fewestOrdinary }

// MinRanked is the number of videos below which a correlation of ranks is not computed.
const MinRanked = 5

// List orders the videos of a file without labels. reference is a score file of the same weights, made with like settings: all
// of its videos if they have no labels either, its possible ones if they have; nil for none. Of o only the aggregation
// and Done count, the former by default peak for next-tubelet models and max for others, which is what suits single videos. An error wraps
// ErrUnlike if the files must not be compared.
func List(f, reference *File, o Options) (*Listing, error) {
	l, err := list(f, reference, o)
	if err != nil {
		return nil, fmt.Errorf("listing videos: %w", err)
	}
	return l, nil
}

func list(f, reference *File, o Options) (*Listing, error) {
	if err := f.Validate(); err != nil {
		return nil, err
	}
	if !f.Unlabelled() {
		return nil, errors.New("the videos have labels: compare their groups instead")
	}
	a := o.Aggregation
	switch {
	case a.OfPairs():
		return nil, fmt.Errorf("measure %s: it looks at where the videos of a pair part, and these have no pairs", a)
	case a.Name == "" && len(f.Spec.Contexts) == 0:
		a.Name = "peak"
	case a.Name == "":
		a.Name = "max"
	}
	l := &Listing{Protocol: f.Spec.protocolText(), Aggregation: a, Skipped: f.Skipped, Warnings: []string{}, Videos: make([]Listed, len(f.Videos))}
	model, _ := f.Set(ModelSet)
	for i, v := range f.Videos {
		l.Videos[i] = Listed{Video: i, Path: v.Path, PeakAt: model.Scores[i].PeakAt}
	}
	surprise := map[string][]float64{}
	for _, name := range []string{ModelSet, TwinSet, CopySet} {
		set, ok := f.Set(name)
		if !ok {
			continue
		}
		values, err := set.Videos(f, a)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", set.Name, err)
		}
		surprise[set.Name] = values
		l.Columns = append(l.Columns, set.Name)
		for i, x := range values {
			l.Videos[i].Columns = append(l.Videos[i].Columns, ListedSurprise{Surprise: x})
		}
	}
	if reference != nil {
		if err := l.judge(f, reference, surprise, o); err != nil {
			return nil, fmt.Errorf("reference: %w", err)
		}
	}
	if twin := surprise[TwinSet]; len(twin) >= MinRanked {
		if r := stat.Correlation(ranks(surprise[ModelSet]), ranks(twin), nil); finite(r) {
			l.TwinCorrelation = &r
		}
	}
	l.Warnings = append(l.Warnings, f.Notes...)
	if len(f.Skipped) > 0 {
		l.Warnings = append(l.Warnings, fmt.Sprintf("of %d videos %d were skipped; see the list of them", len(f.Videos)+len(f.Skipped), len(f.Skipped)))
	}
	slices.SortStableFunc(l.Videos, func(x, y Listed) int {
		return cmp.Compare(y.Columns[0].Surprise, x.Columns[0].Surprise)
	})
	return l, nil
}

// content is a video wherever it lies, and whatever it is called.
type content struct {
	sha256 string
	first  int
}

// ordinary are the videos of a reference that count.
type ordinary struct {
	videos  []int             // places in the file
	group   []int             // of each of them: those of a group share what they show, and are no independent witnesses
	members [][]int           // of each group, places in videos
	of      map[content][]int // groups that hold a content
}

func ordinaryOf(f *File) *ordinary {
	o := &ordinary{of: map[content][]int{}}
	at := map[any]int{}
	type held struct {
		content
		group int
	}
	holds := map[held]bool{}
	for i, v := range f.Videos {
		if v.Label == 0 {
			continue
		}
		itself := content{v.SHA256, v.First}
		var name any = v.Group
		if v.Label == NoLabel {
			if name = itself; v.SHA256 == "" {
				name = i
			}
		}
		g, known := at[name]
		if !known {
			g = len(o.members)
			at[name], o.members = g, append(o.members, nil)
		}
		o.members[g] = append(o.members[g], len(o.videos))
		o.videos, o.group = append(o.videos, i), append(o.group, g)
		if place := (held{itself, g}); v.SHA256 != "" && !holds[place] {
			holds[place] = true
			o.of[itself] = append(o.of[itself], g)
		}
	}
	return o
}

// weigh takes some of the ordinary videos, whose surprise is all.
func (o *ordinary) weigh(members []int, all []float64) weighed {
	values, weight := make([]float64, len(members)), make([]float64, len(members))
	for at, i := range members {
		values[at], weight[at] = all[o.videos[i]], 1/float64(len(o.members[o.group[i]]))
	}
	return weigh(values, weight)
}

// judge sets each video of f, listed in its order, among those of a reference. surprise is that of each set of f.
func (l *Listing) judge(f, reference *File, surprise map[string][]float64, o Options) error {
	if err := reference.Validate(); err != nil {
		return err
	}
	if reference.ofControls() && !reference.Unlabelled() {
		return errors.New("these are controls: altered copies of videos")
	}
	if err := alike(f, reference); err != nil {
		return err
	}
	model, _ := f.Set(ModelSet)
	its, _ := reference.Set(ModelSet)
	switch ours, theirs := model.Model.SHA256, its.Model.SHA256; {
	case ours == "" || theirs == "":
		return fmt.Errorf("%w: one of them does not say which weights made it, as the evaluations of a training do not: score with its checkpoint", ErrUnlike)
	case ours != theirs:
		return fmt.Errorf("%w: model is %s in one and %s in the other, and each has a scale of its own", ErrUnlike, weights(&model.Model), weights(&its.Model))
	}
	if ours, its := precisionOf(f), precisionOf(reference); ours != its {
		l.Warnings = append(l.Warnings, fmt.Sprintf("the videos were scored in %s, the reference in %s; a difference as small as rounding means nothing", ours, its))
	}
	those := ordinaryOf(reference)
	groups := len(those.members)
	l.Reference = &Reference{Videos: len(those.videos), Groups: groups}
	everyone := make([]int, len(those.videos))
	for i := range everyone {
		everyone[i] = i
	}
	for column, name := range l.Columns {
		set, ok := reference.Set(name)
		own, _ := f.Set(name)
		if !ok || own.Model.SHA256 != set.Model.SHA256 || own.Model.Seed != set.Model.Seed { // twins of one model differ by seed
			continue
		}
		all, err := set.Videos(reference, l.Aggregation)
		if err != nil {
			return err
		}
		whole := those.weigh(everyone, all)
		without := map[content]weighed{} // what a video is not judged by: the groups that hold it
		for i, v := range f.Videos {
			if err := o.stopped(); err != nil {
				return err
			}
			itself := content{v.SHA256, v.First}
			held := those.of[itself]
			own, known := without[itself]
			if !known && len(held) > 0 {
				var members []int
				for _, g := range held {
					members = append(members, those.members[g]...)
				}
				own = those.weigh(members, all)
				without[itself] = own
			}
			others := groups - len(held)
			if others == 0 {
				continue
			}
			below, same := whole.around(surprise[name][i])
			if len(held) > 0 {
				b, s := own.around(surprise[name][i])
				below, same = below-b, same-s
			}
			n := float64(others)
			rank, p := rankAmong(below, same, n)
			percentile := 100 * rank
			l.Videos[i].Columns[column].Percentile, l.Videos[i].Columns[column].P = &percentile, &p
			if name != ModelSet {
				continue
			}
			if l.Videos[i].Columns[column].Rare() {
				l.Reference.Rare++
			}
			l.Reference.Expected += those.expected(n)
		}
	}
	for _, v := range f.Videos {
		if those.of[content{v.SHA256, v.First}] != nil {
			l.Reference.Shared++
		}
	}
	l.warnOfLengths(f, reference, those.videos)
	notes := slices.Clone(reference.Notes)
	if reference.Dataset != nil {
		notes = append(notes, reference.Dataset.Notes...)
	}
	if n := len(reference.Skipped); n > 0 {
		notes = append(notes, fmt.Sprintf("of %d videos %d were skipped", len(reference.Videos)+n, n))
	}
	for _, note := range notes {
		l.Warnings = append(l.Warnings, "the reference: "+note)
	}
	if l.Reference.tooFew() {
		l.Warnings = append(l.Warnings, fmt.Sprintf("the reference has videos of %d groups: no p can be below %.2g; take at least %d", groups, 1/float64(1+groups), fewestOrdinary))
	}
	return nil
}

// expected is the chance of p at most RareP of a video that is like the reference, at most: of n groups of one video each p
// takes n + 1 values.
func (o *ordinary) expected(n float64) float64 {
	if len(o.videos) > len(o.members) {
		return RareP
	}
	return math.Floor(RareP*(1+n)+rounding) / (1 + n)
}

// warnOfLengths says where videos are much longer or shorter than those of the reference: the largest of more windows is larger.
// Some longer ones are as many as would surprise by chance; more are what the reference does not know.
func (l *Listing) warnOfLengths(f, reference *File, ordinary []int) {
	if !reductions[l.Aggregation.Name].max || len(ordinary) == 0 {
		return
	}
	var ours, theirs []int
	for _, v := range f.Videos {
		ours = append(ours, len(v.WindowStart))
	}
	for _, i := range ordinary {
		theirs = append(theirs, len(reference.Videos[i].WindowStart))
	}
	const much = 1.5
	const remedy = "the largest of more is larger by itself; take videos as long, or a measure that is a mean, such as avg"
	if a, b := median(slices.Clone(ours)), median(theirs); max(a, b) > much*min(a, b) {
		l.Warnings = append(l.Warnings, fmt.Sprintf("a video has %g windows in the middle, one of the reference %g: %s", a, b, remedy))
		return
	}
	most := theirs[int(math.Ceil((1-RareP)*float64(len(theirs))))-1] // of windows, which median has sorted: nearly all of the reference have no more
	longer, first := 0, ""
	for i, n := range ours {
		if float64(n) > much*float64(most) {
			if longer++; longer == 1 {
				first = f.Videos[i].Path
			}
		}
	}
	if float64(longer) > 2*RareP*float64(len(ours)) {
		l.Warnings = append(l.Warnings, fmt.Sprintf("%d of %d videos, the first of them %s, are much longer than nearly all of the reference, of at most %d windows: %s",
			longer, len(ours), first, most, remedy))
	}
}

// weights names a model's weights in an error.
func weights(m *Model) string {
	return fmt.Sprintf("%s (SHA-256 %.12s)", cmp.Or(m.Name, "without a name"), m.SHA256)
}

// ranks are the places of values in ascending order, [N], equal ones their mean.
func ranks(values []float64) []float64 {
	order := make([]int, len(values))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, k int) int { return cmp.Compare(values[i], values[k]) })
	out := make([]float64, len(values))
	for from := 0; from < len(order); {
		to := from
		for to < len(order) && values[order[to]] == values[order[from]] {
			to++
		}
		for _, i := range order[from:to] {
			out[i] = float64(from+to-1) / 2
		}
		from = to
	}
	return out
}
