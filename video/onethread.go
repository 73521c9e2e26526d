package video

// #cgo LDFLAGS: -ldl
// void surmise_one_processor(void);
import "C"

// decodeOnOneThread makes every capture that this process opens decode on the thread that reads it; see onethread.c.
func decodeOnOneThread() { C.surmise_one_processor() }
