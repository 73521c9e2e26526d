package queue

// Filter chooses jobs.
type Filter struct {
	State State // "" for all
	Page
}

// Page is a part of a list, newest first.
type Page struct {
	Before int64 // only sequences below this; 0 for all
	Limit  int   // at most so many
	// Bytes that what callers wrote may take, of all but the first: a page of large ones ends early. 0: any number. It bounds
	// what is in memory at a time.
	Bytes int
}

// firstChunk is how many are read at first where bytes count: as many large ones are in memory at least.
const firstChunk = 16

// readPage reads a page in chunks, each as long as those before it let hope for. more says that there are others behind it.
func readPage[T any](p Page, read func(before int64, limit int) ([]T, error), of func(T) (sequence int64, bytes int)) (page []T, more bool, err error) {
	chunk := p.Limit + 1 // one beyond the page tells whether there is another
	if p.Bytes > 0 {
		chunk = min(chunk, firstChunk)
	}
	total := 0
	for {
		chunk = min(chunk, p.Limit+1-len(page))
		some, err := read(p.Before, chunk)
		if err != nil {
			return nil, false, err
		}
		for _, x := range some {
			sequence, bytes := of(x)
			if len(page) == p.Limit || p.Bytes > 0 && len(page) > 0 && total+bytes > p.Bytes {
				return page, true, nil
			}
			page, total, p.Before = append(page, x), total+bytes, sequence
		}
		if len(some) < chunk {
			return page, false, nil
		}
		if each := total/len(page) + 1; p.Bytes > 0 {
			chunk = max(firstChunk, (p.Bytes-total)/each)
		}
	}
}
