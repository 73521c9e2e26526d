package queue

import "errors"

// Filter chooses jobs.
type Filter struct {
	State State // "" for all
	Page
}

// Page is a part of a list, newest first.
type Page struct {
	Before int64 // only sequences below this; 0 for all
	Limit  int   // at most so many
	// Bytes that what callers wrote may take, of all but the first: a page of large ones ends early, and no more than one
	// beyond it is in memory. 0: any number.
	Bytes int
}

// pageChunk is how many are asked for at a time where bytes count: what a page has no room for is left unread, but a
// database may send the rest of what it was asked for.
const pageChunk = 64

// errPageFull ends the reading of a chunk.
var errPageFull = errors.New("the page is full")

// readPage reads a page. read passes those below a sequence on, newest first and at most so many, until it is told to end by
// an error, which it returns. more says that there are others behind the page.
func readPage[T any](p Page, read func(before int64, limit int, each func(T) error) error, of func(T) (sequence int64, bytes int)) (page []T, more bool, err error) {
	total := 0
	for {
		chunk := p.Limit + 1 - len(page) // one beyond the page tells whether there is another
		if p.Bytes > 0 {
			chunk = min(chunk, pageChunk)
		}
		came := 0
		err := read(p.Before, chunk, func(x T) error {
			sequence, bytes := of(x)
			if len(page) == p.Limit || p.Bytes > 0 && len(page) > 0 && total+bytes > p.Bytes {
				return errPageFull
			}
			page, total, p.Before = append(page, x), total+bytes, sequence
			came++
			return nil
		})
		switch {
		case errors.Is(err, errPageFull):
			return page, true, nil
		case err != nil:
			return nil, false, err
		case came < chunk:
			return page, false, nil
		}
	}
}
