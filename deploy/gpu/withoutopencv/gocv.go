// Package gocv stands in for the OpenCV binding in programs that are built without it, for machines that have only a GPU:
// what Surmise calls of it is here, and says that there is none. See deploy/gpu/build.sh.
package gocv

import (
	"errors"
	"image"
	"image/color"
)

var errNone = errors.New("this program was built without OpenCV")

type (
	// MatType is the type of a Mat's elements.
	MatType int
	// VideoCaptureProperties name what a capture can be asked for.
	VideoCaptureProperties int
	// VideoCaptureAPI names what a capture reads with.
	VideoCaptureAPI int
	// IMReadFlag says how pictures are read.
	IMReadFlag int
	// ColorConversionCode names a conversion of colours.
	ColorConversionCode int
	// InterpolationFlags name ways to resize.
	InterpolationFlags int
	// LineType names ways to draw lines.
	LineType int
	// HersheyFont names a font.
	HersheyFont int
)

// The values are OpenCV's, though nobody gets to use them.
const (
	MatTypeCV8UC3 MatType = 16

	VideoCapturePosMsec     VideoCaptureProperties = 0
	VideoCapturePosFrames   VideoCaptureProperties = 1
	VideoCaptureFrameWidth  VideoCaptureProperties = 3
	VideoCaptureFrameHeight VideoCaptureProperties = 4
	VideoCaptureFPS         VideoCaptureProperties = 5
	VideoCaptureFrameCount  VideoCaptureProperties = 7
	VideoCaptureFormat      VideoCaptureProperties = 8

	VideoCaptureFFmpeg VideoCaptureAPI     = 1900
	IMReadColor        IMReadFlag          = 1
	ColorBGRToRGB      ColorConversionCode = 4
	InterpolationCubic InterpolationFlags  = 2
	LineAA             LineType            = 16
	FontHersheySimplex HersheyFont         = 0
)

// OpenCVVersion is "none".
func OpenCVVersion() string { return "none" }

// Mat is always empty.
type Mat struct{}

func NewMat() Mat                                                         { return Mat{} }
func NewMatFromBytes(int, int, MatType, []byte) (Mat, error)              { return Mat{}, errNone }
func IMRead(string, IMReadFlag) Mat                                       { return Mat{} }
func (m *Mat) Close() error                                               { return nil }
func (m *Mat) Empty() bool                                                { return true }
func (m *Mat) Rows() int                                                  { return 0 }
func (m *Mat) Cols() int                                                  { return 0 }
func (m *Mat) Type() MatType                                              { return 0 }
func (m *Mat) DataPtrUint8() ([]uint8, error)                             { return nil, errNone }
func (m *Mat) CopyTo(*Mat)                                                {}
func (m *Mat) Region(image.Rectangle) Mat                                 { return Mat{} }
func Resize(Mat, *Mat, image.Point, float64, float64, InterpolationFlags) {}
func CvtColor(Mat, *Mat, ColorConversionCode)                             {}

// VideoCapture opens nothing.
type VideoCapture struct{}

func VideoCaptureFileWithAPI(string, VideoCaptureAPI) (*VideoCapture, error) {
	return &VideoCapture{}, errNone
}
func (v *VideoCapture) Close() error                        { return nil }
func (v *VideoCapture) Get(VideoCaptureProperties) float64  { return 0 }
func (v *VideoCapture) Set(VideoCaptureProperties, float64) {}
func (v *VideoCapture) Read(*Mat) bool                      { return false }
func (v *VideoCapture) Grab(int)                            {}
func (v *VideoCapture) CodecString() string                 { return "" }

// VideoWriter opens nothing.
type VideoWriter struct{}

func VideoWriterFile(string, string, float64, int, int, bool) (*VideoWriter, error) {
	return nil, errNone
}
func (v *VideoWriter) IsOpened() bool  { return false }
func (v *VideoWriter) Write(Mat) error { return errNone }
func (v *VideoWriter) Close() error    { return nil }

// PointsVector holds nothing.
type PointsVector struct{}

func NewPointsVectorFromPoints([][]image.Point) PointsVector { return PointsVector{} }
func (p PointsVector) Close()                                {}

func CircleWithParams(*Mat, image.Point, int, color.RGBA, int, LineType, int)       {}
func FillPolyWithParams(*Mat, PointsVector, color.RGBA, LineType, int, image.Point) {}
func Line(*Mat, image.Point, image.Point, color.RGBA, int)                          {}
func PutText(*Mat, string, image.Point, HersheyFont, float64, color.RGBA, int)      {}
