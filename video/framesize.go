package video

import (
	"strings"

	"gocv.io/x/gocv"
)

// checkFrameSizes reads a file's packets, undecoded, and refuses one whose codec headers change the frame size. It
// returns how many frames come before the change.
//
// OpenCV 4.6 sizes its conversion by the first frame. When the size grows it goes on delivering the last
// frame from before, and when it shrinks it reads past the picture's end, in both cases without a word, and it tells
// nobody the size that the decoder has arrived at. So the change must be found before anything is decoded. Codecs that
// sizeReader does not know are not looked into: what is left has one size for the whole file, in the container
// (HuffYUV, FFV1, raw pictures, GIF, the codecs of Windows Media), or is too rare to be met.
func checkFrameSizes(path, source string, read sizeReader, lim limits, alive func()) (frames int, err error) {
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

// A sizeReader finds the frame size, in pixels, in the packets of one file, given in order; ok is false
// for packets that name none.
type sizeReader func(packet []byte) (width, height int, ok bool)

// newSizeReader returns a reader for a codec, by the first of the names it goes by that is known; nil for another codec.
func newSizeReader(names ...string) sizeReader {
	for _, name := range names {
		switch strings.ToLower(name) {
		case "avc1", "avc3", "h264", "x264", "davc", "mpeg4/iso/avc":
			return new(h264Sizes).read
		case "hev1", "hvc1", "hevc", "h265", "x265", "dvhe", "dvh1", "mpegh/iso/hevc":
			return new(hevcSizes).read
		case "av01", "av1":
			return new(av1Sizes).read
		case "vp8", "vp80":
			return vp8Size
		case "vp9", "vp90", "vp09":
			return vp9Size
		case "mpg1", "mpg2", "mp2v", "mpeg1", "mpeg2", "mx3p", "mx4p", "mx5p", "m2v1", "xdv2", "xdvc":
			return mpegSize
		case "mp4v", "fmp4", "xvid", "divx", "dx50", "3iv2", "mpeg4/iso/sp", "mpeg4/iso/asp", "mpeg4/iso/ap", "mpeg":
			return anyMPEGSize
		case "h263", "s263", "u263":
			return h263Size
		case "mjpg", "mjpeg", "jpeg", "mjpa", "mjpb", "avrn", "dmb1", "ljpg":
			return jpegSize
		case "mjp2", "jpeg2000":
			return jpeg2000Size
		case "png", "mpng":
			return pngSize
		case "apch", "apcn", "apcs", "apco", "ap4h", "ap4x", "prores":
			return proresSize
		case "avdn", "avdh":
			return dnxSize
		}
	}
	return nil
}
