// Package joblog takes what a process logs while it works on a job, to be kept with the job.
//
// A Book stands behind a slog handler: records go to where they went before and, between Begin and End, into the book
// too, as lines, from level INFO on. A program that logs without measure loses lines and is told how many; it never
// waits.
package joblog

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/timestamppb"

	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

const (
	// maxText is the bound of LogLine.text, in bytes.
	maxText = 8192
	// maxWaiting bounds the lines that wait to be sent: minutes of a coordinator that is away, or a burst.
	maxWaiting      = 2000
	maxWaitingBytes = 512 << 10
	// level is the least that is kept.
	level = slog.LevelInfo
)

// Book holds lines until they are taken. Safe for concurrent use.
type Book struct {
	news chan struct{} // holds a token when lines wait

	mu      sync.Mutex
	open    bool                 // a job runs
	waiting []*surmisev1.LogLine // not taken yet
	bytes   int                  // of their texts
	number  int64                // of the newest line
	dropped int64                // since the newest line
	text    bytes.Buffer         // of the record being kept
}

// New returns a closed book.
func New() *Book { return &Book{news: make(chan struct{}, 1)} }

// Begin opens the book for an attempt, empty.
func (b *Book) Begin() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open, b.waiting, b.bytes, b.number, b.dropped = true, nil, 0, 0, 0
}

// End closes the book. What waits may still be taken; when the newest lines were dropped, a last one says so.
func (b *Book) End() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open && b.dropped > 0 {
		b.add(time.Now(), slog.LevelWarn, "lines before this one are missing: too many came at once")
	}
	b.open = false
}

// News holds a token when lines wait.
func (b *Book) News() <-chan struct{} { return b.news }

// Take takes lines that wait, oldest first, of at most so many bytes of text, or one.
func (b *Book) Take(bytes int) []*surmisev1.LogLine {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for n < len(b.waiting) && (n == 0 || len(b.waiting[n].Text) <= bytes) {
		bytes -= len(b.waiting[n].Text)
		b.bytes -= len(b.waiting[n].Text)
		n++
	}
	taken := b.waiting[:n:n]
	if b.waiting = b.waiting[n:]; len(b.waiting) == 0 {
		b.waiting = nil
	} else {
		b.tell()
	}
	return taken
}

func (b *Book) tell() {
	select {
	case b.news <- struct{}{}:
	default:
	}
}

// keep adds a line, or counts it among those dropped. b.mu is held.
func (b *Book) keep(at time.Time, l slog.Level, text string) {
	if len(b.waiting) >= maxWaiting || b.bytes+len(text) > maxWaitingBytes {
		b.dropped++ // the newest: what came first says more about how it began
		return
	}
	b.add(at, l, text)
}

func (b *Book) add(at time.Time, l slog.Level, text string) {
	b.number++
	b.waiting = append(b.waiting, &surmisev1.LogLine{Number: b.number, Time: timestamppb.New(at), Level: l.String(), Text: text, Dropped: b.dropped})
	b.bytes += len(text)
	b.dropped = 0
	b.tell()
}

// Handler passes records on to next, and those of a running job into the book.
func (b *Book) Handler(next slog.Handler) slog.Handler {
	return handler{b, next, slog.NewTextHandler(&b.text, &slog.HandlerOptions{Level: level, ReplaceAttr: withoutKnown})}
}

// withoutKnown leaves out what every line of a job's log has, or has beside its text.
func withoutKnown(groups []string, a slog.Attr) slog.Attr {
	if len(groups) > 0 {
		return a
	}
	switch a.Key {
	case slog.TimeKey, slog.LevelKey, slog.MessageKey, "job", "epoch", "worker":
		return slog.Attr{}
	}
	return a
}

type handler struct {
	book *Book
	next slog.Handler
	text slog.Handler // writes to book.text, under book.mu
}

func (h handler) Enabled(ctx context.Context, l slog.Level) bool {
	return h.next.Enabled(ctx, l) || h.text.Enabled(ctx, l)
}

func (h handler) Handle(ctx context.Context, r slog.Record) error {
	h.keep(ctx, r)
	if !h.next.Enabled(ctx, r.Level) {
		return nil
	}
	return h.next.Handle(ctx, r)
}

func (h handler) keep(ctx context.Context, r slog.Record) {
	b := h.book
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.open || !h.text.Enabled(ctx, r.Level) {
		return
	}
	b.text.Reset()
	if h.text.Handle(ctx, r) != nil {
		return // a buffer takes everything
	}
	b.keep(r.Time, r.Level, line(r.Message, b.text.String()))
}

// line is a message and its attributes as one line that fits the API.
func line(message, attributes string) string {
	text := message
	if attributes = strings.TrimSpace(attributes); attributes != "" {
		text += " " + attributes
	}
	text = strings.ToValidUTF8(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text), "\uFFFD")
	const cut = " …"
	if len(text) <= maxText {
		return text
	}
	end := maxText - len(cut)
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + cut
}

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return handler{h.book, h.next.WithAttrs(attrs), h.text.WithAttrs(attrs)}
}

func (h handler) WithGroup(name string) slog.Handler {
	return handler{h.book, h.next.WithGroup(name), h.text.WithGroup(name)}
}
