// Package header reads what files say of themselves before anything in them is decoded: which container a file is, and
// the frame size that the packets of its codec name. All of it is from outside: every length is checked against the
// bytes there are.
//
// One source file each:
//
//	container.go  the first bytes of a file -> its container
//	packets.go    packets of codecs that need no state -> frame size
//	nal.go        H.264 and H.265
//	av1.go        AV1
//	bits.go       numbers of any width, from bytes
package header

import "strings"

// A SizeReader finds the frame size, in pixels, in the packets of one file, given in order; ok is false
// for packets that name none.
type SizeReader func(packet []byte) (width, height int, ok bool)

// NewSizeReader returns a reader for a codec, by the first of the names it goes by that is known; nil for another codec.
func NewSizeReader(names ...string) SizeReader {
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
