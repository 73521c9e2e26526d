package gpu

import (
	"errors"
	"fmt"
	"strings"

	"github.com/surmise-ml/surmise/trainer/xla/pjrt"
)

// Remedy says what to do about an error of this package; "": nothing is known.
func Remedy(err error) string {
	var (
		noDriver  *NoDriverError
		noPlugin  *NoPluginError
		libraries *MissingLibrariesError
		tooNew    *TooNewError
		version   *pjrt.VersionError
		noCard    *NoCardError
		busy      *BusyCardError
	)
	switch {
	case errors.As(err, &noDriver) && noDriver.Missing:
		return "install NVIDIA's driver; in a container, give it the GPU: docker run --gpus all, or the runtime class nvidia"
	case errors.As(err, &noDriver):
		return "see what nvidia-smi says; after an update of the driver, load its kernel module anew or restart the machine"
	case errors.As(err, &noPlugin):
		return install(cudaFor(noPlugin.Driver))
	case errors.As(err, &libraries):
		return "pip install -U " + strings.Join(libraries.Packages, " ") + ", where the plugin is"
	case errors.As(err, &tooNew):
		return fmt.Sprintf("update the driver, or: %s", install(cudaFor(tooNew.Driver.Major())))
	case errors.As(err, &version) && version.Newer:
		return "install an older plugin, or bring this program to a newer version"
	case errors.As(err, &version):
		return install(0)
	case errors.As(err, &noCard) && len(noCard.Driver.Cards) == 0:
		return "check CUDA_VISIBLE_DEVICES, and that the container is given a GPU"
	case errors.As(err, &noCard):
		return fmt.Sprintf("use gpu:0 to gpu:%d, or see CUDA_VISIBLE_DEVICES", len(noCard.Driver.Cards)-1)
	case errors.As(err, &busy) && busy.Card.Total >= leastFree:
		return "end what uses it (nvidia-smi names the processes), or choose another GPU"
	case errors.As(err, &busy):
		return "use a larger GPU, or the CPU"
	}
	if _, is := pjrt.IsOutOfMemory(err); is {
		return "end what else uses the GPU (nvidia-smi names the processes), or choose another"
	}
	return ""
}

// WithRemedy adds the remedy to an error.
func WithRemedy(err error) error {
	if r := Remedy(err); r != "" {
		return fmt.Errorf("%w; %s", err, r)
	}
	return err
}

// cudaFor is the newest CUDA that has a plugin and that a driver runs.
func cudaFor(driver int) int {
	for _, c := range cudas {
		if driver == 0 || driver >= c.major {
			return c.major
		}
	}
	return cudas[len(cudas)-1].major
}

// install is the command that brings a plugin and all that it needs but the driver; cuda 0: the newest.
func install(cuda int) string {
	if cuda == 0 {
		cuda = cudas[0].major
	}
	return fmt.Sprintf("pip install -U 'jax-cuda%d-plugin[with-cuda]'", cuda)
}
