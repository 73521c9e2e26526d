package heat

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"os"
)

// Scale says which surprise is transparent and which burns.
type Scale struct{ Low, High float32 }

// ScaleOf spans all of the given maps, so that they may be compared by eye.
func ScaleOf(maps ...Map) Scale {
	var s Scale
	for i, m := range maps {
		low, high := m.Range()
		if i == 0 || low < s.Low {
			s.Low = low
		}
		if i == 0 || high > s.High {
			s.High = high
		}
	}
	return s
}

// strongest is the opacity of the largest surprise, of 1: the frame stays visible below it.
const strongest = 0.72

// At returns the share of the scale that a value reaches, 0 to 1.
func (s Scale) At(x float32) float64 {
	if !(s.High > s.Low) {
		return 0
	}
	return float64(min(1, max(0, (x-s.Low)/(s.High-s.Low))))
}

// Colour is yellow to red and ever more opaque, for a share of the scale. Opacity grows
// with its square: most tokens surprise a little, and would veil the frame.
func Colour(share float64) color.NRGBA {
	return color.NRGBA{R: 255, G: uint8(220 * (1 - share)), B: 0, A: uint8(255 * strongest * share * share)}
}

// PNG draws one tubelet's tokens, a pixel each, to be laid over its frames.
func (s Scale) PNG(values []float32, height, width int) ([]byte, error) {
	if len(values) != height*width || len(values) == 0 {
		return nil, fmt.Errorf("drawing surprise: %d values for a grid of %d×%d", len(values), height, width)
	}
	img := image.NewNRGBA(image.Rect(0, 0, width, height))
	for i, x := range values {
		img.SetNRGBA(i%width, i/width, Colour(s.At(x)))
	}
	var out bytes.Buffer
	if err := png.Encode(&out, img); err != nil {
		return nil, fmt.Errorf("drawing surprise: %w", err)
	}
	return out.Bytes(), nil
}

func sha256OfFile(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
