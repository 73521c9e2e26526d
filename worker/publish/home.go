package publish

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/surmise-ml/surmise/artifact"
)

// home is this process's own folder, claimed when it is first needed: Options.Dir, or one beside it where another process
// that is alive has that, as when a scheduler starts a worker again that it has lost sight of. What an earlier process left
// there of attempts is removed. p.mu is held.
func (p *Publisher) home() (string, error) {
	if p.claim != nil {
		return p.claimed, nil
	}
	if p.o.Dir == "" {
		return "", errors.New("artifacts are kept in a store, and this worker has no data folder to work in")
	}
	dir, claim, err := artifact.Claim(p.o.Dir)
	if err != nil {
		return "", fmt.Errorf("the folder of this worker: %w", err)
	}
	if err := os.RemoveAll(attempts(dir)); err != nil {
		return "", errors.Join(fmt.Errorf("removing what an earlier worker left: %w", err), claim.Close())
	}
	p.claimed, p.claim = dir, claim
	return dir, nil
}

// attempts is where the working folders of attempts lie in a home.
func attempts(home string) string { return filepath.Join(home, "attempts") }
