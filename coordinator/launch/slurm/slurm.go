// Package slurm has Slurm start workers: a batch is a job array, submitted with sbatch, whose tasks are the workers.
//
// Slurm numbers jobs, but numbers come again, and it lets any number of jobs have one name. So a worker is known by the
// name and the comment of its job, never by a number alone, and a batch is started once in three steps, of which each may
// be repeated by anyone: the array is submitted on hold; of all arrays of its name the first one stays, and later ones, of
// other coordinators, are cancelled; the first one is released. A coordinator that is killed in between leaves an array on
// hold, which the next look settles.
package slurm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/surmise-ml/surmise/coordinator/launch"
)

// Options says how workers are submitted. The zero value of a field has the meaning stated.
type Options struct {
	Prefix  string            // of names; required
	Program []string          // the worker and its first arguments, on the nodes: surmise worker --coordinator …; required
	Script  string            // the text that sbatch is given; it runs "$2…" as the worker "$1-$SLURM_ARRAY_TASK_ID"; required
	Job     Job               // of all pools
	Pools   map[string]Job    // of a pool, in place of what Job says
	Output  string            // file pattern of sbatch, seen by the nodes; "": Slurm's default, slurm-%A_%a.out
	Dir     string            // working folder on the nodes; "": that of the coordinator
	Env     []string          // variables of the coordinator that workers are given beside PATH, HOME, USER, LANG and TZ
	Logger  *slog.Logger      // nil: slog.Default()
	Bin     map[string]string // where a command is, such as "sbatch"; absent: in PATH
	Conf    string            // slurm.conf of the cluster; "": where Slurm's commands look for it
	User    string            // who submits; "": the user of this process
}

// Job is what is asked of Slurm for a worker, beside its shape. "" asks for nothing: the site's default holds.
type Job struct {
	Partition    string        // --partition
	Account      string        // --account
	QOS          string        // --qos
	Reservation  string        // --reservation
	Constraint   string        // --constraint
	GRES         string        // what a GPU is to --gres, without the number: "gpu" ("") or "gpu:a100"
	TimeLimit    time.Duration // --time; 0: the partition's
	SignalBefore time.Duration // SIGTERM so long before the limit, for a checkpoint; 0: 2 min
	Extra        []string      // further options of sbatch, such as "--exclusive"
}

// DefaultSignalBefore is long against a checkpoint on a shared file system. Slurm sends signals up to a minute early.
const DefaultSignalBefore = 2 * time.Minute

// over is j where it says something, else other.
func (j Job) over(other Job) Job {
	text := func(a *string, b string) {
		if *a == "" {
			*a = b
		}
	}
	text(&j.Partition, other.Partition)
	text(&j.Account, other.Account)
	text(&j.QOS, other.QOS)
	text(&j.Reservation, other.Reservation)
	text(&j.Constraint, other.Constraint)
	text(&j.GRES, other.GRES)
	if j.TimeLimit == 0 {
		j.TimeLimit = other.TimeLimit
	}
	if j.SignalBefore == 0 {
		j.SignalBefore = other.SignalBefore
	}
	if j.Extra == nil {
		j.Extra = other.Extra
	}
	return j
}

// Launcher is a launch.Launcher of Slurm. It is safe for concurrent use.
type Launcher struct {
	o        Options
	commands commands
	log      *slog.Logger
	past     past
}

// reservedOptions are sbatch's that the launcher sets itself: the names of workers hang on them.
var reservedOptions = regexp.MustCompile(`^(--(job-name|comment|array|hold|parsable|wrap|no-requeue|wait|test-only|export|export-file|uid|clusters)($|=)|-[JaHWM])`)

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// New returns a launcher. It calls no command yet: a Slurm that is away is told of when workers are wanted.
func New(o Options) (*Launcher, error) {
	if err := launch.CheckPrefix(o.Prefix); err != nil {
		return nil, fmt.Errorf("slurm: prefix %w", err)
	}
	if len(o.Program) == 0 {
		return nil, errors.New("slurm: Program is empty")
	}
	if !strings.HasPrefix(o.Script, "#!") {
		return nil, errors.New("slurm: Script does not begin with #!, as sbatch demands")
	}
	for _, name := range o.Env {
		if !variableName.MatchString(name) {
			return nil, fmt.Errorf("slurm: env %q is not the name of a variable", name)
		}
	}
	if err := o.Job.check(); err != nil {
		return nil, fmt.Errorf("slurm: %w", err)
	}
	for _, pool := range slices.Sorted(maps.Keys(o.Pools)) {
		if err := o.Pools[pool].over(o.Job).check(); err != nil { // as it will be submitted
			return nil, fmt.Errorf("slurm: pool %s: %w", pool, err)
		}
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	run, err := newShell(o.Bin, o.Conf)
	if err != nil {
		return nil, fmt.Errorf("slurm: %w", err)
	}
	if o.User == "" {
		if o.User, err = currentUser(); err != nil {
			return nil, fmt.Errorf("slurm: %w", err)
		}
	}
	return &Launcher{o: o, commands: run, log: o.Logger, past: newPast()}, nil
}

func (j Job) check() error {
	for _, f := range []struct{ name, value string }{
		{"partition", j.Partition}, {"account", j.Account}, {"qos", j.QOS}, {"reservation", j.Reservation},
		{"constraint", j.Constraint}, {"gres", j.GRES},
	} {
		if len(f.value) > 256 || strings.ContainsFunc(f.value, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			return fmt.Errorf("%s %q: want at most 256 characters, no space among them", f.name, f.value)
		}
	}
	switch {
	case j.TimeLimit < 0 || j.TimeLimit > 0 && j.TimeLimit < time.Minute:
		return fmt.Errorf("time_limit %v: Slurm counts in minutes", j.TimeLimit)
	case j.SignalBefore < 0 || j.SignalBefore > 18*time.Hour: // Slurm's field has 16 bits
		return fmt.Errorf("signal_before %v: want 0 to 18 h", j.SignalBefore)
	case j.TimeLimit > 0 && j.SignalBefore >= j.TimeLimit:
		return fmt.Errorf("signal_before %v is not before the time limit, %v", j.SignalBefore, j.TimeLimit)
	}
	for _, option := range j.Extra {
		if !strings.HasPrefix(option, "-") || strings.ContainsAny(option, "\x00\n") {
			return fmt.Errorf("extra %q is not an option; write --name=value", option)
		}
		if reservedOptions.MatchString(option) {
			return fmt.Errorf("extra %q: the launcher sets this itself", option)
		}
	}
	return nil
}

// Engine implements launch.Launcher.
func (l *Launcher) Engine() string { return "Slurm" }

// Start implements launch.Launcher.
func (l *Launcher) Start(ctx context.Context, b launch.Batch) error {
	if b.Count < 1 || b.Name.Prefix != l.o.Prefix {
		return fmt.Errorf("starting %s: %d workers, of prefix %s", b.Name, b.Count, l.o.Prefix)
	}
	name := b.Name.String()
	tasks, err := l.squeue(ctx, name)
	if err != nil {
		return err
	}
	if len(tasks) > 0 { // started before, perhaps not to the end
		return l.settle(ctx, name, tasks)
	}
	submitted, err := l.commands.run(ctx, l.o.Script, "sbatch", l.submission(b)...)
	if err != nil {
		return err
	}
	if tasks, err = l.squeue(ctx, name); err != nil {
		return err
	}
	if len(tasks) == 0 {
		return l.giveUp(ctx, name, string(submitted))
	}
	return l.settle(ctx, name, tasks)
}

// giveUp cancels an array that Slurm has taken and does not list as ours: nobody would ever release it, and another would
// be submitted at the next look. submitted is what sbatch printed: its number, and after a semicolon the cluster.
func (l *Launcher) giveUp(ctx context.Context, batch, submitted string) error {
	number, _, _ := strings.Cut(strings.TrimSpace(submitted), ";")
	if _, err := strconv.ParseUint(number, 10, 32); err != nil {
		return fmt.Errorf("sbatch printed %.64q, and squeue lists no job of %s", submitted, batch)
	}
	err := fmt.Errorf("array %s was submitted and cancelled again: squeue does not list it under the name %s with the comment %q; does a job_submit plugin of this site change them?",
		number, batch, comment(batch))
	return errors.Join(err, l.scancel(ctx, "--user="+l.o.User, number))
}

// submission is the arguments of sbatch.
func (l *Launcher) submission(b launch.Batch) []string {
	job := l.o.Pools[b.Name.Pool].over(l.o.Job)
	name := b.Name.String()
	args := []string{
		"--parsable", "--hold", "--job-name=" + name, "--comment=" + comment(name), "--array=0-" + strconv.Itoa(b.Count-1),
		"--nodes=1", "--ntasks=1", "--requeue", "--open-mode=append",
		"--export=" + strings.Join(append([]string{"PATH", "HOME", "USER", "LANG", "TZ"}, l.o.Env...), ","),
	}
	option := func(name, value string) {
		if value != "" {
			args = append(args, "--"+name+"="+value)
		}
	}
	option("partition", job.Partition)
	option("account", job.Account)
	option("qos", job.QOS)
	option("reservation", job.Reservation)
	option("constraint", job.Constraint)
	option("output", l.o.Output)
	option("chdir", l.o.Dir)
	if b.Shape.CPUs > 0 {
		option("cpus-per-task", strconv.Itoa(b.Shape.CPUs))
	}
	if b.Shape.Memory > 0 {
		option("mem", strconv.FormatInt((b.Shape.Memory+(1<<20)-1)>>20, 10)+"M")
	}
	if b.Shape.GPUs > 0 {
		gres := job.GRES
		if gres == "" {
			gres = "gpu"
		}
		option("gres", gres+":"+strconv.Itoa(b.Shape.GPUs))
	}
	if job.TimeLimit > 0 {
		option("time", strconv.Itoa(int((job.TimeLimit+time.Minute-1)/time.Minute))) // minutes
	}
	before := job.SignalBefore
	if before == 0 {
		before = min(DefaultSignalBefore, max(job.TimeLimit/2, 0))
		if job.TimeLimit == 0 {
			before = DefaultSignalBefore
		}
	}
	// B: to the script alone, which is the worker by then.
	args = append(args, "--signal=B:TERM@"+strconv.Itoa(int(before/time.Second)))
	args = append(args, job.Extra...)
	args = append(args, "/dev/stdin", name)
	args = append(args, l.o.Program...)
	return append(args, b.Flags()...)
}

// comment is what a worker's job carries: no other work has both the name and this.
func comment(batch string) string { return "surmise " + batch }

// settle leaves one array of a batch: the first that was submitted, not on hold. tasks are all of this name.
func (l *Launcher) settle(ctx context.Context, batch string, tasks []task) error {
	first := firstArray(tasks)
	held := false
	later := map[uint32]bool{} // arrays
	for _, t := range tasks {
		switch {
		case t.array != first && !t.ended():
			later[t.array] = true
		case t.array == first && t.state == "PENDING" && t.reason == heldByUser:
			held = true
		}
	}
	for _, array := range slices.Sorted(maps.Keys(later)) {
		if err := l.cancelArray(ctx, batch, array); err != nil {
			return fmt.Errorf("cancelling a second array of %s: %w", batch, err)
		}
		l.log.Info("a second array of a batch is cancelled", "batch", batch, "slurm_job", array, "first", first)
	}
	if !held {
		return nil
	}
	if _, err := l.commands.run(ctx, "", "scontrol", "release", strconv.FormatUint(uint64(first), 10)); err != nil {
		return fmt.Errorf("releasing %s: %w", batch, err)
	}
	return nil
}

// heldByUser is Slurm's reason for a job that was submitted with --hold.
const heldByUser = "JobHeldUser"

// firstArray is the array that was submitted first. Numbers come again, times do not.
func firstArray(tasks []task) uint32 {
	first := tasks[0]
	for _, t := range tasks[1:] {
		if t.submitted < first.submitted || t.submitted == first.submitted && t.array < first.array {
			first = t
		}
	}
	return first.array
}

// cancelArray ends an array. Name and user are given as well, so that a number that has become another's harms nobody.
func (l *Launcher) cancelArray(ctx context.Context, batch string, array uint32) error {
	return l.scancel(ctx, "--user="+l.o.User, "--name="+batch, strconv.FormatUint(uint64(array), 10))
}

// cancelTasks ends tasks of arrays that were listed just now. With a name beside it, scancel would take one task of an array
// that waits for all of it.
func (l *Launcher) cancelTasks(ctx context.Context, tasks []task) error {
	for some := range slices.Chunk(tasks, 100) {
		ids := make([]string, len(some))
		for i, t := range some {
			ids[i] = fmt.Sprintf("%d_%d", t.array, t.index)
		}
		if err := l.scancel(ctx, ids...); err != nil {
			return err
		}
	}
	return nil
}

func (l *Launcher) scancel(ctx context.Context, args ...string) error {
	_, err := l.commands.run(ctx, "", "scancel", args...)
	if err != nil && strings.Contains(err.Error(), "Invalid job id specified") {
		return nil // it is gone
	}
	return err
}

// List implements launch.Launcher. It also settles what a coordinator that was killed has left on hold.
func (l *Launcher) List(ctx context.Context) ([]launch.Worker, error) {
	tasks, err := l.squeue(ctx, "")
	if err != nil {
		return nil, err
	}
	byBatch := map[string][]task{}
	for _, t := range tasks {
		byBatch[t.batch] = append(byBatch[t.batch], t)
	}
	var workers []launch.Worker
	for _, batch := range slices.Sorted(maps.Keys(byBatch)) {
		if unsettled(byBatch[batch]) {
			if err := l.settle(ctx, batch, byBatch[batch]); err != nil { // the next look tries again
				l.log.Warn("settling what was submitted", "batch", batch, "error", err)
			}
		}
		workers = append(workers, batchWorkers(batch, byBatch[batch])...)
	}
	return append(workers, l.recall(ctx, workers)...), nil
}

// unsettled reports whether settle has something to do.
func unsettled(tasks []task) bool {
	first := firstArray(tasks)
	return slices.ContainsFunc(tasks, func(t task) bool {
		return t.array != first && !t.ended() || t.array == first && t.state == "PENDING" && t.reason == heldByUser
	})
}

// batchWorkers is the workers of a batch: the tasks of its first array.
func batchWorkers(batch string, tasks []task) (workers []launch.Worker) {
	first := firstArray(tasks)
	rest := -1
	for i, t := range tasks {
		switch {
		case t.array != first:
		case t.index < 0:
			rest = i
		default:
			workers = append(workers, t.worker(batch+"-"+strconv.Itoa(t.index)))
		}
	}
	if len(workers) == 0 && rest >= 0 {
		// All were cancelled before one of them ran: Slurm keeps one line for the array, which stands for the first.
		workers = append(workers, tasks[rest].worker(batch+"-0"))
	}
	return workers
}

// Stop implements launch.Launcher. What runs is sent SIGTERM, hands its job back and exits.
func (l *Launcher) Stop(ctx context.Context, names []string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	byBatch := map[string]map[int]bool{}
	for _, name := range names {
		batch, index, ok := launch.ParseWorker(l.o.Prefix, name)
		if !ok {
			continue
		}
		if byBatch[batch.String()] == nil {
			byBatch[batch.String()] = map[int]bool{}
		}
		byBatch[batch.String()][index] = true
	}
	for _, batch := range slices.Sorted(maps.Keys(byBatch)) {
		tasks, err := l.squeue(ctx, batch)
		if err != nil {
			return err
		}
		tasks = slices.DeleteFunc(tasks, func(t task) bool { return !byBatch[batch][t.index] || t.ended() })
		if err := l.cancelTasks(ctx, tasks); err != nil {
			return err
		}
	}
	return nil
}
