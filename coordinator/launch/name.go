package launch

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// A BatchName is PREFIX-POOL-ATTEMPT, and a worker's name the batch's with -INDEX. Both are labels as DNS knows them, of at
// most 63 characters, which every engine takes.
type BatchName struct {
	Prefix  string // tells the workers of one store from all others of the engine
	Pool    string
	Attempt int // counts the starts in the pool that the engine remembers, from 1
}

var (
	validPrefix = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,22}[a-z0-9])?$`)
	validPool   = regexp.MustCompile(`^[a-z][a-z0-9]{0,15}$`)
)

// CheckPrefix refuses a prefix that names cannot begin with.
func CheckPrefix(prefix string) error {
	if !validPrefix.MatchString(prefix) {
		return fmt.Errorf("%q: want a small letter, then small letters, digits and dashes, at most 24 in all, no dash at the end", prefix)
	}
	return nil
}

// CheckPool refuses a pool's name that names cannot hold.
func CheckPool(pool string) error {
	if !validPool.MatchString(pool) {
		return fmt.Errorf("%q: want a small letter, then small letters and digits, at most 16 in all", pool)
	}
	return nil
}

func (n BatchName) String() string { return fmt.Sprintf("%s-%s-%d", n.Prefix, n.Pool, n.Attempt) }

// Worker is the name of the i-th worker.
func (n BatchName) Worker(i int) string { return fmt.Sprintf("%s-%d", n, i) }

// ParseBatch reads a batch's name; ok is false for one that is not of this prefix.
func ParseBatch(prefix, name string) (n BatchName, ok bool) {
	rest, ok := strings.CutPrefix(name, prefix+"-")
	if !ok {
		return n, false
	}
	pool, number, _ := strings.Cut(rest, "-")
	attempt, ok := parseNumber(number)
	if !ok || attempt < 1 || CheckPool(pool) != nil {
		return n, false
	}
	return BatchName{Prefix: prefix, Pool: pool, Attempt: attempt}, true
}

// ParseWorker reads a worker's name; ok is false for one that is not of this prefix.
func ParseWorker(prefix, name string) (n BatchName, index int, ok bool) {
	at := strings.LastIndexByte(name, '-')
	if at < 0 {
		return n, 0, false
	}
	if index, ok = parseNumber(name[at+1:]); !ok {
		return n, 0, false
	}
	n, ok = ParseBatch(prefix, name[:at])
	return n, index, ok
}

// parseNumber takes a number only as it is written by String: one worker has one name.
func parseNumber(s string) (int, bool) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > 999_999_999 || strconv.Itoa(n) != s {
		return 0, false
	}
	return n, true
}
