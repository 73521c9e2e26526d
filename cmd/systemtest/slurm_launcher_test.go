package systemtest

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/surmise-ml/surmise/coordinator/launch"
	"github.com/surmise-ml/surmise/coordinator/launch/launchtest"
	"github.com/surmise-ml/surmise/coordinator/launch/slurm"
	"github.com/surmise-ml/surmise/coordinator/launch/slurm/slurmtest"
)

// The suite on a Slurm that is real. A worker is a shell that waits for a signal; its file says how it is to end.
func TestSlurmConformance(t *testing.T) {
	t.Parallel()
	c := slurmtest.Start(t)
	script, err := os.ReadFile("../../deploy/slurm/worker.sh")
	if err != nil {
		t.Fatal(err)
	}
	tests := 0
	launchtest.Conformance(t, func(t *testing.T) launchtest.World {
		dir := t.TempDir()
		worker := filepath.Join(dir, "worker")
		// sh WORKER --name NAME …: "exit 3" once there is a file NAME.
		if err := os.WriteFile(worker, []byte(`#!/bin/sh
for name; do :; done
echo "$name runs"
trap 'exit 0' TERM
while ! [ -e "`+dir+`/$name" ]; do sleep 0.1 & wait $!; done
echo "$name fails"
exit 3
`), 0o700); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			c.Run("scontrol", "update", "partitionname=low", "state=UP")
			c.Run("scancel", "--user=root")
			for c.Run("squeue", "--noheader", "--states=RUNNING,COMPLETING,PENDING") != "" {
				time.Sleep(50 * time.Millisecond) // Slurm tells nobody
			}
		})
		tests++
		return launchtest.World{
			Prefix: fmt.Sprintf("lab%d", tests), // Slurm remembers what has ended
			Open: func(t *testing.T, prefix string) launch.Launcher {
				l, err := slurm.New(slurm.Options{
					Prefix: prefix, Program: []string{worker}, Script: string(script), Conf: c.Conf, Dir: dir, Output: filepath.Join(dir, "%x-%a.out"),
					Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
				})
				if err != nil {
					t.Fatal(err)
				}
				return l
			},
			Hold:    func(*testing.T) { c.Run("scontrol", "update", "partitionname=low", "state=DOWN") },
			Release: func(*testing.T) { c.Run("scontrol", "update", "partitionname=low", "state=UP") },
			Fail: func(t *testing.T, name string) {
				if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			},
			Step: func(t *testing.T) {
				select {
				case <-time.After(50 * time.Millisecond): // Slurm tells nobody
				case <-t.Context().Done():
				}
			},
		}
	})
}

// What Slurm says of bad settings is what a person reads.
func TestSlurmRefusesInItsOwnWords(t *testing.T) {
	t.Parallel()
	c := slurmtest.Start(t)
	for want, job := range map[string]slurm.Job{
		"Invalid partition name specified": {Partition: "nowhere"},
		"Invalid generic resource":         {Extra: []string{"--gres=gpu:1"}},
		"Invalid node name specified":      {Extra: []string{"--nodelist=n9"}},
	} {
		l, err := slurm.New(slurm.Options{Prefix: "lab", Program: []string{"/bin/true"}, Script: "#!/bin/sh\n", Output: "/dev/null", Conf: c.Conf, Job: job})
		if err != nil {
			t.Fatal(err)
		}
		err = l.Start(t.Context(), launchtest.Batch("cpu", 1, 1))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "sbatch: error: ") {
			t.Errorf("%+v: %v, want %q", job, err, want)
		}
		if got, err := l.List(t.Context()); err != nil || len(got) != 0 {
			t.Errorf("listed %v, %v", got, err)
		}
	}
}

func TestSlurmThatIsAway(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(slurmtest.Start(t).Conf)
	if err != nil {
		t.Fatal(err)
	}
	for setting, away := range map[string]struct{ value, want string }{
		"SlurmctldPort=": {"1\nMessageTimeout=2\nSlurmctldTimeout=2", "Unable to contact slurm controller"},
		"AuthInfo=":      {"socket=/nowhere/munge", "Munge encode failed: Failed to access \"/nowhere/munge\""},
	} {
		lines := strings.Split(string(text), "\n")
		for i, line := range lines {
			if strings.HasPrefix(line, setting) {
				lines[i] = setting + away.value
			}
		}
		conf := filepath.Join(t.TempDir(), "slurm.conf")
		if err := os.WriteFile(conf, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := slurm.New(slurm.Options{Prefix: "lab", Program: []string{"/bin/true"}, Script: "#!/bin/sh\n", Conf: conf})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := l.List(ctx); err == nil || !strings.Contains(err.Error(), away.want) {
			t.Errorf("listing with %s%s: %v", setting, away.value, err)
		}
		if err := l.Start(ctx, launchtest.Batch("cpu", 1, 1)); err == nil || !strings.Contains(err.Error(), away.want) {
			t.Errorf("starting with %s%s: %v", setting, away.value, err)
		}
	}
}
