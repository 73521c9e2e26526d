//go:build !mpi

package parallel

// Join makes this process part of the group that MPI started it in.
func Join() (Group, func() error, error) { return nil, nil, ErrNotBuilt }
