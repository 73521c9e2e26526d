// Package gpu offers one NVIDIA GPU as an xla.Device.
//
// Open goes through what has to be there, from the bottom up, so that the error names the first thing that is missing and
// its remedy: the driver (driver.go), the plugin (find.go), NVIDIA's libraries (libraries.go), the device itself
// (open.go). Examine does the same for surmise doctor, without opening more than is asked for.
package gpu
