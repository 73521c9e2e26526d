package video

import (
	"gocv.io/x/gocv"

	"github.com/surmise-ml/surmise/video/header"
)

// checkFrameSizes reads a file's packets, undecoded, and refuses one whose codec headers change the frame size. It
// returns how many frames come before the change.
//
// OpenCV 4.6 sizes its conversion by the first frame. When the size grows it goes on delivering the last
// frame from before, and when it shrinks it reads past the picture's end, in both cases without a word, and it tells
// nobody the size that the decoder has arrived at. So the change must be found before anything is decoded. Codecs that
// header.NewSizeReader does not know are not looked into: what is left has one size for the whole file, in the container
// (HuffYUV, FFV1, raw pictures, GIF, the codecs of Windows Media), or is too rare to be met.
func checkFrameSizes(path, source string, read header.SizeReader, lim limits, alive func()) (frames int, err error) {
	if read == nil {
		return 0, nil
	}
	capture, err := open(source)
	if err != nil {
		_ = capture.Close()
		return 0, nil //nolint:nilerr // it opened a moment ago: decoding will say what has become of it
	}
	defer capture.Close()
	const undecoded = -1
	capture.Set(gocv.VideoCaptureFormat, undecoded)
	capture.Set(orientationAuto, 0)
	width, height := int(capture.Get(gocv.VideoCaptureFrameWidth)), int(capture.Get(gocv.VideoCaptureFrameHeight))
	packet := gocv.NewMat()
	defer packet.Close()
	for number := 0; number < lim.frames && capture.Read(&packet); number++ {
		alive()
		data, err := packet.DataPtrUint8()
		if err != nil || packet.Rows() != 1 {
			return 0, nil //nolint:nilerr // this build of OpenCV does not hand out packets
		}
		w, h, ok := read(data)
		switch {
		case !ok:
		case number == 0: // headers of the container may be wrong; where packets repeat theirs, those count
			width, height = w, h
		case w != width || h != height:
			return number, fault(path, SizeChanges, ": %dx%d for %d frames, then %dx%d", width, height, number, w, h)
		}
	}
	return 0, nil
}

// orientationAuto is OpenCV's CAP_PROP_ORIENTATION_AUTO, which gocv has no name for: whether frames and their sizes are
// turned as the file asks.
const orientationAuto gocv.VideoCaptureProperties = 49
