package chaos

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"path/filepath"
	"sync"
)

// postgresSocket takes the URL of a database behind a Unix socket apart.
func postgresSocket(address string) (socket, database string, err error) {
	u, err := url.Parse(address)
	if err != nil {
		return "", "", fmt.Errorf("store %q: %w", address, err)
	}
	return filepath.Join(u.Query().Get("host"), ".s.PGSQL.5432"), u.Path, nil
}

// relay is a way over TCP to a server behind a Unix socket, that can be cut.
type relay struct {
	listener net.Listener
	socket   string
	waits    sync.WaitGroup

	mu   sync.Mutex
	cut  bool
	open map[net.Conn]bool
}

func newRelay(socket string) (*relay, error) {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &relay{listener: l, socket: socket, open: map[net.Conn]bool{}}
	r.waits.Go(r.accept)
	return r, nil
}

func (r *relay) accept() {
	for {
		conn, err := r.listener.Accept()
		if err != nil {
			return // closed
		}
		r.waits.Go(func() { r.pass(conn) })
	}
}

// pass carries one connection to its end.
func (r *relay) pass(conn net.Conn) {
	defer conn.Close()
	if !r.keep(conn) {
		return
	}
	defer r.forget(conn)
	server, err := new(net.Dialer).DialContext(context.Background(), "unix", r.socket)
	if err != nil {
		return
	}
	defer server.Close()
	if !r.keep(server) {
		return
	}
	defer r.forget(server)
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{conn, server}, {server, conn}} {
		both.Go(func() {
			_, _ = io.Copy(way[0], way[1]) // however it ends
			way[0].Close()
			way[1].Close()
		})
	}
	both.Wait()
}

// keep notes a connection; false when the way is cut.
func (r *relay) keep(c net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.cut {
		r.open[c] = true
	}
	return !r.cut
}

func (r *relay) forget(c net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, c)
}

// set cuts the way, or mends it.
func (r *relay) set(cut bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut = cut
	for c := range r.open {
		if cut {
			c.Close()
		}
	}
}

func (r *relay) close() {
	r.set(true)
	r.listener.Close()
	r.waits.Wait()
}
