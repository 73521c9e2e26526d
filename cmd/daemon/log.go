package daemon

import (
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Logging is how a command logs. Records of a job carry the attributes job ("jobs/{id}"), epoch (of the attempt) and
// worker, wherever they come from.
type Logging struct {
	Level  string // debug, info, warn or error
	Format string // text or json
}

// Flags adds --log-level and --log-format.
func (l *Logging) Flags(flags *pflag.FlagSet) {
	flags.StringVar(&l.Level, "log-level", "info", "debug, info, warn or error")
	flags.StringVar(&l.Format, "log-format", "text", "text or json")
}

// Logger returns a logger that writes to w.
func (l Logging) Logger(w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.Level)); err != nil {
		return nil, fmt.Errorf("--log-level %q: want debug, info, warn or error", l.Level)
	}
	options := &slog.HandlerOptions{Level: level}
	switch l.Format {
	case "text":
		return slog.New(slog.NewTextHandler(w, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return nil, fmt.Errorf("--log-format %q: want text or json", l.Format)
}

// Alone makes a command of a larger program a program of its own: it gets --version and the flags of logging, and slog's
// default logger follows them.
func Alone(cmd *cobra.Command, version string) *cobra.Command {
	cmd.Version = version
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &UsageError{err} })
	var l Logging
	l.Flags(cmd.Flags())
	cmd.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		logger, err := l.Logger(cmd.ErrOrStderr())
		if err != nil {
			return &UsageError{err}
		}
		slog.SetDefault(logger)
		return nil
	}
	return cmd
}
