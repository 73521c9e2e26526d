package pjrt

import "runtime"

// onLeak is told of an object that was forgotten before it was closed. It is set in tests only.
var onLeak func(what string)

// reportLeak watches an object with a method Close that clears the watch through forget.
func reportLeak[T any](object *T, what string) {
	if report := onLeak; report != nil {
		runtime.SetFinalizer(object, func(*T) { report(what) })
	}
}

// forget ends the watch: the object was closed.
func forget[T any](object *T) { runtime.SetFinalizer(object, nil) }
