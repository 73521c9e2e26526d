package gpu

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"

	"github.com/surmise-ml/surmise/trainer/xla/pjrt"
)

// Options say which GPU is taken, and how.
type Options struct {
	Plugin string // file; "": System.Find looks for one
	Index  int    // of the GPU, as the driver counts those that the process may see
	// Fraction is the most of the GPU's memory that is taken, 0 to 1; 0: DefaultFraction, or less where others use the GPU.
	Fraction float64
	// Preallocate takes the memory at once; otherwise it is taken as it is needed, and kept.
	Preallocate bool
	// Overrides are compiler flags for all programs, by name: string, bool, int64 or float64.
	Overrides map[string]any
}

// logLevel names the least that plugins log: 0 information, 1 warnings.
const logLevel = "TF_CPP_MIN_LOG_LEVEL"

const (
	// DefaultFraction leaves room for what lies outside the allocator: the driver's own, and libraries' workspaces.
	DefaultFraction = 0.9
	// freeShare of what is free on a GPU that others use, likewise.
	freeShare = 0.95
	// leastFree is what a GPU must have free to be of use at all: code and libraries alone take some hundred MiB.
	leastFree = 1 << 30
)

// NoCardError says that the GPU that was asked for does not exist.
type NoCardError struct {
	Index  int
	Driver Driver
}

func (e *NoCardError) Error() string {
	if len(e.Driver.Cards) == 0 {
		return fmt.Sprintf("there is no gpu:%d: the driver shows no GPU", e.Index)
	}
	var names []string
	for _, c := range e.Driver.Cards {
		names = append(names, c.String())
	}
	return fmt.Sprintf("there is no gpu:%d: the driver shows %s", e.Index, strings.Join(names, "; "))
}

// BusyCardError says that others have taken nearly all memory of a GPU, or that it has little.
type BusyCardError struct {
	Card Card
	Free int64 // bytes
}

func (e *BusyCardError) Error() string {
	if e.Card.Total < leastFree {
		return fmt.Sprintf("%v is too small: %s are needed at least", e.Card, gib(leastFree))
	}
	return fmt.Sprintf("%v is in use: %s are free, and %s are needed at least", e.Card, gib(e.Free), gib(leastFree))
}

// Open takes a GPU. Errors say what is missing; Remedy says what to do about them.
func (s System) Open(o Options) (*Device, error) {
	d, err := s.open(o)
	if err != nil {
		return nil, fmt.Errorf("opening gpu:%d: %w", o.Index, err)
	}
	return d, nil
}

func (s System) open(o Options) (*Device, error) {
	if o.Index < 0 || o.Index >= maxCards {
		return nil, fmt.Errorf("index %d, want 0 to %d", o.Index, maxCards-1)
	}
	if !(o.Fraction >= 0 && o.Fraction <= 1) {
		return nil, fmt.Errorf("memory fraction %g, want 0 to 1", o.Fraction)
	}
	driver, err := s.ReadDriver()
	if err != nil {
		return nil, err
	}
	plugin, err := s.Find(o.Plugin, driver.Major())
	if err != nil {
		return nil, err
	}
	if o.Index >= len(driver.Cards) {
		return nil, &NoCardError{o.Index, driver}
	}
	card := driver.Cards[o.Index]
	fraction, err := s.fraction(card, o.Fraction)
	if err != nil {
		return nil, err
	}
	if s.Getenv(logLevel) == "" { // or compilers tell of every kernel that they try
		if err := os.Setenv(logLevel, "1"); err != nil {
			return nil, err
		}
	}
	loaded, err := plugin.Load(driver)
	if err != nil {
		return nil, err
	}
	client, err := loaded.NewClient(
		pjrt.Option{Name: "visible_devices", Value: []int64{int64(o.Index)}},
		pjrt.Option{Name: "memory_fraction", Value: float32(fraction)},
		pjrt.Option{Name: "preallocate", Value: o.Preallocate},
		pjrt.Option{Name: "allocator", Value: "bfc"})
	if err != nil {
		return nil, err
	}
	if n := len(client.Devices()); n != 1 {
		return nil, errors.Join(fmt.Errorf("the plugin shows %d devices, want the one", n), client.Close())
	}
	return newDevice(client, plugin, s.Getenv("XLA_FLAGS"), o.Overrides), nil
}

// fraction is how much of a card's memory may be taken.
func (s System) fraction(c Card, asked float64) (float64, error) {
	if c.Total < leastFree {
		return 0, &BusyCardError{c, c.Total}
	}
	free, err := s.Free(c)
	if err != nil { // then nobody knows, and the plugin will say
		free = c.Total
	}
	if free < leastFree {
		return 0, &BusyCardError{c, free}
	}
	if asked > 0 {
		return asked, nil
	}
	return math.Min(DefaultFraction, freeShare*float64(free)/float64(c.Total)), nil
}

// TooNewError says that a plugin was built for a newer CUDA than the driver runs.
type TooNewError struct {
	Plugin Plugin
	Driver Driver
}

func (e *TooNewError) Error() string {
	return fmt.Sprintf("the PJRT plugin %s is for CUDA %d, and the driver runs CUDA %d.%d", e.Plugin.Path, e.Plugin.CUDA, e.Driver.Major(), e.Driver.CUDA%1000/10)
}

// Load opens NVIDIA's libraries and the plugin.
func (p Plugin) Load(d Driver) (*pjrt.Plugin, error) {
	if d.CUDA > 0 && p.CUDA > d.Major() {
		return nil, &TooNewError{p, d}
	}
	if err := p.preload(); err != nil {
		return nil, err
	}
	return pjrt.Load(p.Path)
}

// Choice is where work is done: "cpu", "gpu", "gpu:1", or "auto", which is a GPU where there is one that works.
type Choice struct {
	Auto, GPU bool // neither: CPU
	Index     int
}

// ParseChoice reads a choice; "" is "auto".
func ParseChoice(s string) (Choice, error) {
	switch s {
	case "", "auto":
		return Choice{Auto: true}, nil
	case "cpu":
		return Choice{}, nil
	case "gpu":
		return Choice{GPU: true}, nil
	}
	if digits, ok := strings.CutPrefix(s, "gpu:"); ok {
		if i, err := strconv.Atoi(digits); err == nil && i >= 0 && i < maxCards && strconv.Itoa(i) == digits {
			return Choice{GPU: true, Index: i}, nil
		}
	}
	return Choice{}, fmt.Errorf("device %q, want auto, cpu, gpu or gpu:N with N from 0 to %d", s, maxCards-1)
}

// String writes a choice as ParseChoice reads it.
func (c Choice) String() string {
	switch {
	case c.Auto:
		return "auto"
	case c.GPU:
		return fmt.Sprintf("gpu:%d", c.Index)
	}
	return "cpu"
}

// Choose opens what a choice says. A nil device means the CPU; why then says, for auto, why it is not a GPU: to be logged
// once. Only a GPU that was asked for makes an error of what is missing.
func (s System) Choose(c Choice, o Options) (d *Device, why string, err error) {
	if !c.Auto && !c.GPU {
		return nil, "", nil
	}
	if c.GPU {
		o.Index = c.Index
	}
	d, err = s.Open(o)
	if err == nil || c.GPU {
		return d, "", WithRemedy(err)
	}
	return nil, WithRemedy(err).Error(), nil
}
