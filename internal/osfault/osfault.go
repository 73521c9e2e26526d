// Package osfault tells whose fault an error of the operating system is: that of the machine, where another attempt may
// succeed elsewhere or later, or that of what was asked for.
package osfault

import (
	"errors"
	"syscall"
)

// ofMachine are what the operating system answers when a machine is full, out of something, or broken.
var ofMachine = []error{
	syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG, // disk full, or the process may write no more
	syscall.EIO, syscall.EROFS, syscall.ESTALE, syscall.ENODEV, syscall.ENXIO, // disk or mount gone bad
	syscall.ENOMEM, syscall.EAGAIN, syscall.EMFILE, syscall.ENFILE, // out of memory, processes, descriptors
	syscall.ETIMEDOUT, syscall.EHOSTDOWN, syscall.ECONNRESET, syscall.ENOTCONN, syscall.ESHUTDOWN, // network file systems
	syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.ENETDOWN, syscall.ECONNABORTED, syscall.ECONNREFUSED,
}

// OfMachine reports whether err is one that a full, starved or broken machine gives. What else the system answers, a file
// that is missing or may not be read, is for the one who named it to put right.
func OfMachine(err error) bool {
	for _, e := range ofMachine {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
