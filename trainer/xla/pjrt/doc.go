// Package pjrt runs compiled programs on an accelerator through a PJRT plugin, the shared library in which XLA offers a
// device. It is a thin client of the plugin's C interface, without cgo.
//
// Phases: Find names the plugin, Load opens it, NewClient takes the device, Compile makes a program, Upload brings
// tensors, Execute runs, Download fetches. Uploads, downloads and runs go on after the call: a Pending says when they are
// over and how they ended. Until then the plugin reads or writes the caller's memory, which stays pinned.
//
// Ownership is explicit: a Client, an Executable and a Buffer are closed by whoever got them, a client after all that came
// from it. Nothing is left to finalizers; in tests they report what was forgotten. A plugin stays loaded as long as the
// process, as the libraries below it cannot be unloaded.
//
// Errors carry the plugin's own text and code. All methods may be called from several goroutines.
package pjrt
