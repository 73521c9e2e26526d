package auth

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/surmise-ml/surmise/internal/bounded"
	"github.com/surmise-ml/surmise/internal/durable"
)

const (
	// tokenPrefix lets scanners of repositories and logs know a token when they see one.
	tokenPrefix = "surmise_"
	// maxTokens and maxTokensBytes bound a tokens file; a token takes about 250 bytes.
	maxTokens      = 10_000
	maxTokensBytes = 8 << 20
	// maxTokenLength bounds what is hashed for a caller who is nobody yet.
	maxTokenLength = 256
)

// Token is what is kept of a bearer token: all but the token.
type Token struct {
	ID    string `json:"id"`
	Role  Role   `json:"role"`
	Owner string `json:"owner"`
	// Hash is the SHA-256 of the token in hex. A token holds 130 random bits, so that nobody finds it by trying, however
	// fast the hash; a slow one, made for passwords, would only slow every call.
	Hash    string    `json:"hash"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
	Revoked time.Time `json:"revoked,omitzero"` // zero: it is not
}

// State is "active", "expired" or "revoked".
func (t Token) State(now time.Time) string {
	switch {
	case !t.Revoked.IsZero():
		return "revoked"
	case !now.Before(t.Expires):
		return "expired"
	}
	return "active"
}

var validTokenID = regexp.MustCompile(`^[a-z2-7]{10}$`)

func (t Token) check() error {
	if !validTokenID.MatchString(t.ID) {
		return fmt.Errorf("id %q: want 10 of a-z and 2-7", t.ID)
	}
	if _, err := ParseRole(string(t.Role)); err != nil {
		return err
	}
	if err := CheckOwner(t.Owner); err != nil {
		return err
	}
	if sum, err := hex.DecodeString(t.Hash); err != nil || len(sum) != sha256.Size {
		return errors.New("hash: want 64 hex digits") // not shown: someone may have put the token here
	}
	if t.Expires.IsZero() {
		return errors.New("expires: is missing")
	}
	return nil
}

// NewToken draws a token. The secret, all that a caller needs, is returned once and kept nowhere.
func NewToken(role Role, owner string, created, expires time.Time) (secret string, t Token, err error) {
	if !expires.After(created) {
		return "", Token{}, fmt.Errorf("expires %v is not after %v", expires, created)
	}
	id := strings.ToLower(rand.Text()[:10])
	secret = tokenPrefix + id + "_" + rand.Text()
	t = Token{ID: id, Role: role, Owner: owner, Hash: hash(secret), Created: created.UTC(), Expires: expires.UTC()}
	return secret, t, t.check()
}

func hash(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// tokensFile is the JSON of a tokens file.
type tokensFile struct {
	Version int     `json:"version"`
	Tokens  []Token `json:"tokens"`
}

// ReadTokens reads a tokens file.
func ReadTokens(path string) ([]Token, error) {
	text, err := bounded.ReadFile(path, maxTokensBytes)
	if err != nil {
		return nil, fmt.Errorf("reading tokens: %w", err)
	}
	tokens, err := parseTokens(text)
	if err != nil {
		return nil, fmt.Errorf("reading tokens: %s: %w", path, err)
	}
	return tokens, nil
}

func parseTokens(text []byte) ([]Token, error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields() // a misspelt "revoked" must not leave a token in force
	var file tokensFile
	if err := decoder.Decode(&file); err != nil {
		return nil, err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the JSON object")
	}
	if file.Version != 1 {
		return nil, fmt.Errorf("version %d, want 1", file.Version)
	}
	if len(file.Tokens) > maxTokens {
		return nil, fmt.Errorf("%d tokens (limit %d)", len(file.Tokens), maxTokens)
	}
	ids := make(map[string]bool, len(file.Tokens))
	for i, t := range file.Tokens {
		if err := t.check(); err != nil {
			return nil, fmt.Errorf("tokens[%d].%w", i, err)
		}
		if ids[t.ID] {
			return nil, fmt.Errorf("tokens[%d].id %q: appears twice", i, t.ID)
		}
		ids[t.ID] = true
	}
	return file.Tokens, nil
}

// AddToken appends a token to the file at path, which is made if missing. Processes that change it wait for each other.
func AddToken(path string, t Token) error {
	return changeTokens(path, func(tokens []Token) ([]Token, error) {
		if len(tokens) >= maxTokens {
			return nil, fmt.Errorf("%s holds %d tokens (limit %d): remove old ones", path, len(tokens), maxTokens)
		}
		return append(tokens, t), nil
	})
}

// ErrNoToken: the file holds none of this id.
var ErrNoToken = errors.New("holds no token")

// TokenID is the id of a token that was given whole, or what was given.
func TokenID(text string) string {
	if id, _, ok := strings.Cut(strings.TrimPrefix(text, tokenPrefix), "_"); ok {
		return id
	}
	return text
}

// RevokeToken marks a token of the file as revoked at now. One that was revoked before stays as it was.
func RevokeToken(path, id string, now time.Time) error {
	return changeTokens(path, func(tokens []Token) ([]Token, error) {
		i := slices.IndexFunc(tokens, func(t Token) bool { return t.ID == id })
		if i < 0 {
			return nil, fmt.Errorf("%s: %w with id %q", path, ErrNoToken, id)
		}
		if tokens[i].Revoked.IsZero() {
			tokens[i].Revoked = now.UTC()
		}
		return tokens, nil
	})
}

func changeTokens(path string, change func([]Token) ([]Token, error)) error {
	lock, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("changing tokens: %w", err)
	}
	defer lock.Close() // unlocks
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("changing tokens: locking %s: %w", lock.Name(), err)
	}
	tokens, err := ReadTokens(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if tokens, err = change(tokens); err != nil {
		return err
	}
	text, err := json.MarshalIndent(tokensFile{Version: 1, Tokens: tokens}, "", "  ")
	if err != nil {
		return fmt.Errorf("changing tokens: %w", err)
	}
	return durable.WriteBytes(path, 0o600, append(text, '\n')) // for its owner's eyes alone
}

// Tokens knows the tokens of a file, which it reads again when it changes. Safe for concurrent use.
type Tokens struct {
	file *watched[map[string]Token] // by id
	now  func() time.Time
}

// OpenTokens reads a tokens file. Expiry follows now.
func OpenTokens(path string, now func() time.Time, log *slog.Logger) (*Tokens, error) {
	file, err := watch(log, func() (map[string]Token, error) {
		tokens, err := ReadTokens(path)
		byID := make(map[string]Token, len(tokens))
		for _, t := range tokens {
			byID[t.ID] = t
		}
		return byID, err
	}, path)
	if err != nil {
		return nil, err
	}
	return &Tokens{file, now}, nil
}

// identify says whose token this is. The errors are errTokenUnknown, errTokenExpired and errTokenRevoked; the last two
// only for one who has the whole token.
func (t *Tokens) identify(secret string) (Identity, error) {
	if len(secret) > maxTokenLength {
		return Identity{}, errTokenUnknown
	}
	rest, _ := strings.CutPrefix(secret, tokenPrefix)
	id, _, _ := strings.Cut(rest, "_")
	token, known := t.file.get()[id]
	// Where the id is unknown, hashes are compared all the same: the time says nothing of which ids exist.
	right := subtle.ConstantTimeCompare([]byte(hash(secret)), []byte(token.Hash)) == 1
	if !known || !right {
		return Identity{}, errTokenUnknown
	}
	switch token.State(t.now()) {
	case "revoked":
		return Identity{}, errTokenRevoked
	case "expired":
		return Identity{}, errTokenExpired
	}
	return Identity{ID: "token/" + id, Role: token.Role, Owner: token.Owner}, nil
}
