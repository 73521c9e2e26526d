package worker

import (
	"os"
	"testing"

	"github.com/surmise-ml/surmise/video"
)

func TestMain(m *testing.M) {
	video.ServeIfAsked() // decoders are processes of the test binary
	beSuspendedIfAsked()
	os.Exit(m.Run())
}
