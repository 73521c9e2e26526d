package slurm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/surmise-ml/surmise/coordinator/launch"
)

// commands runs a command of Slurm. An error holds what it said.
type commands interface {
	run(ctx context.Context, stdin, name string, args ...string) (stdout []byte, err error)
}

const (
	// maxOutput is far above what 100 000 workers take, at some 100 bytes each.
	maxOutput = 32 << 20
	maxErrors = 64 << 10
	// endPatience is how long a command may take to end after its context has.
	endPatience = 5 * time.Second
)

// shell runs the commands of this machine.
type shell struct {
	bin map[string]string
	env []string
}

var commandNames = []string{"sbatch", "squeue", "scancel", "scontrol", "sacct"}

func newShell(bin map[string]string, conf string) (shell, error) {
	for name, path := range bin {
		if !slices.Contains(commandNames, name) || !filepath.IsAbs(path) {
			return shell{}, fmt.Errorf("bin %q: %q: want one of %s and an absolute path", name, path, strings.Join(commandNames, ", "))
		}
	}
	env := environment(os.Environ())
	if conf != "" {
		env = append(env, "SLURM_CONF="+conf)
	}
	return shell{bin: bin, env: env}, nil
}

// environment is what commands are given: not what a job that the coordinator itself runs in was given, nor settings that
// change what a command prints.
func environment(of []string) []string {
	keep := []string{"SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT", "SLURM_CONF_SERVER"}
	env := slices.DeleteFunc(slices.Clone(of), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		for _, prefix := range []string{"SLURM_", "SLURMD_", "SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_", "LC_"} {
			if strings.HasPrefix(name, prefix) && !slices.Contains(keep, name) {
				return true
			}
		}
		return false
	})
	return append(env, "LC_ALL=C", "SLURM_TIME_FORMAT=%s")
}

func (s shell) run(ctx context.Context, stdin, name string, args ...string) ([]byte, error) {
	path := s.bin[name]
	if path == "" {
		path = name
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = s.env
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = endPatience
	out, errs := &bounded{max: maxOutput}, &bounded{max: maxErrors}
	cmd.Stdout, cmd.Stderr = out, errs
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%s: %w", name, ctx.Err())
	case err != nil:
		// Slurm's words name the command: "sbatch: error: …".
		if said := launch.Words(errs.kept.String()); said != "" {
			return nil, &commandError{said, err}
		}
		return nil, fmt.Errorf("%s: %w", name, err)
	case out.cut:
		return nil, fmt.Errorf("%s printed more than %d bytes", name, maxOutput)
	}
	return out.kept.Bytes(), nil
}

// commandError is a command's own words.
type commandError struct {
	said string
	err  error
}

func (e *commandError) Error() string { return e.said }
func (e *commandError) Unwrap() error { return e.err }

// bounded keeps the beginning of what is written to it.
type bounded struct {
	kept bytes.Buffer // a field: its ReadFrom would take everything
	max  int
	cut  bool
}

func (b *bounded) Write(p []byte) (int, error) {
	n := len(p)
	if room := b.max - b.kept.Len(); n > room {
		b.cut, p = true, p[:room]
	}
	b.kept.Write(p)
	return n, nil
}

func currentUser() (string, error) {
	u, err := user.Current()
	if err != nil {
		return "", fmt.Errorf("who submits: %w", err)
	}
	if u.Username == "" {
		return "", errors.New("who submits: this user has no name")
	}
	return u.Username, nil
}
