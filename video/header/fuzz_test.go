package header

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
)

func FuzzHeaderSizes(f *testing.F) {
	f.Add([]byte("\x00\x00\x01\x67\x64\x00\x0a\xac\xd9\x44\x26\x84\x00\x00\x01\x68\xee\x3c\x80\x00\x00\x01\x65\x88\x84"))
	f.Add([]byte("\x00\x00\x01\xb3\x14\x00\xf0"))
	f.Add([]byte("\x10\x00\x00\x9d\x01\x2a\x40\x01\xf0\x00"))
	f.Add([]byte("\x82\x49\x83\x42\x00\x13\xf0\x0e\xf0"))
	f.Add([]byte("\xff\xd8\xff\xe0\x00\x04\x00\x00\xff\xc0\x00\x11\x08\x00\x40\x00\x60\x03"))
	f.Add([]byte("\x12\x00\x0a\x0a\x00\x00\x00\x02\xaf\xff\x9b\x5f\x30\x08\x32\x10"))
	codecs := []string{"h264", "hevc", "av1", "vp8", "vp9", "mpeg", "mpeg2", "mp4v", "h263", "mjpg", "mjp2", "png", "apcn", "avdn"}
	f.Fuzz(func(t *testing.T, packet []byte) {
		for _, codec := range codecs {
			read := NewSizeReader(codec)
			for range 2 { // what the first call learned must not mislead the second
				if w, h, ok := read(packet); ok && (w < 0 || h < 0) {
					t.Errorf("%s: %dx%d", codec, w, h)
				}
			}
		}
	})
}

// boxes are top-level boxes of an MP4 file.
func boxes(kindsAndBodies ...string) (file string) {
	for i := 0; i < len(kindsAndBodies); i += 2 {
		body := kindsAndBodies[i+1]
		file += string(binary.BigEndian.AppendUint32(nil, uint32(8+len(body)))) + kindsAndBodies[i] + body
	}
	return file
}

const videoTrack = "\x00\x00\x00\x21hdlr\x00\x00\x00\x00\x00\x00\x00\x00vide\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

func TestIdentify(t *testing.T) {
	large := boxes("ftyp", "isom") + "\x7f\xff\xff\xffmoov"
	long := "\x00\x00\x00\x01mdat\x7f\xff\xff\xff\xff\xff\xff\xff" // 64-bit length, beyond the file
	tracks := "\x1a\x45\xdf\xa3..\x2a\xd7\xb1\x83\x0f\x42\x40..V_VP9.."
	for _, c := range []struct {
		file, name, codec string
		start             float64
		is                error  // as errors.Is has it
		problem           string // in the error's text; "": none
	}{
		{file: boxes("ftyp", "isom", "moov", videoTrack), name: "mp4"},
		{file: boxes("moov", "cmov: compressed"), name: "mp4"},
		{file: boxes("ftyp", "isom", "moov", strings.ReplaceAll(videoTrack, "vide", "soun")), name: "mp4", is: ErrNoVideo, problem: "no video"},
		{file: boxes("ftyp", "isom", "mdat", "xx"), name: "mp4", problem: "no moov box"},
		{file: boxes("ftyp", "isom", "moov", videoTrack)[:40], name: "mp4", problem: "cut off"},
		{file: "\x00\x00\x00\x04ftyp0123", name: "mp4", problem: "damaged box header"},
		{file: large + strings.Repeat("x", 100), name: "mp4", is: ErrTooLarge, problem: "limit 67108864"},
		{file: boxes("ftyp", "isom") + long, name: "mp4", problem: "no moov box"},
		{file: strings.Repeat(boxes("free", ""), maxTopBoxes+1), name: "mp4", problem: "more than 65536 boxes"},
		{file: tracks + matroskaCluster + "\xff\xe7\x82\x03\xe8", name: "matroska", codec: "vp9", start: 1},
		{file: tracks + matroskaCluster + "\xff\xbf\x84crc!\xe7\x81\x05", name: "matroska", codec: "vp9", start: 0.005},
		{file: "\x1a\x45\xdf\xa3..A_OPUS.." + matroskaCluster + "\xff", name: "matroska", is: ErrNoVideo, problem: "no video"},
		{file: "RIFF....AVI LIST", name: "avi"},
		{file: "GIF89a", name: "gif", codec: "gif"},
		{file: "\x00\x00\x01\xba", name: "mpeg"},
		{file: "#EXTM3U\nhttp://host/a.ts\n", problem: "not an MP4"},
		{file: "", problem: "not an MP4"},
	} {
		got, err := Identify(strings.NewReader(c.file), int64(len(c.file)))
		if got.Name != c.name || got.Codec != c.codec || got.Start != c.start || (err == nil) != (c.problem == "") {
			t.Errorf("%.60q: %+v, %v", c.file, got, err)
		}
		if err != nil && (!strings.Contains(err.Error(), c.problem) || c.is != nil && !errors.Is(err, c.is)) {
			t.Errorf("%.60q: error %v, want %q", c.file, err, c.problem)
		}
	}
}

func FuzzIdentify(f *testing.F) {
	f.Add([]byte(boxes("ftyp", "isom", "moov", videoTrack)))
	f.Add([]byte("\x1a\x45\xdf\xa3\x2a\xd7\xb1\x83\x0f\x42\x40V_VP9" + matroskaCluster + "\xff\xe7\x82\x03\xe8"))
	f.Add([]byte("RIFF....AVI "))
	f.Fuzz(func(t *testing.T, file []byte) {
		c, err := Identify(bytes.NewReader(file), int64(len(file)))
		if err == nil && c.Name == "" || c.Start < 0 || c.Start > maxStart {
			t.Errorf("%+v, %v", c, err)
		}
	})
}
