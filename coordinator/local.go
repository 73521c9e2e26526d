package coordinator

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/test/bufconn"

	"github.com/surmise-ml/surmise/coordinator/auth"
)

// Local is the way into a coordinator from its own process, for a worker beside it. Who comes this way is a worker and
// shows neither certificate nor token: whoever can reach it is the coordinator itself.
type Local struct{ pipes *bufconn.Listener }

// localBytes are on their way in one direction before the sender waits.
const localBytes = 64 << 10

// NewLocal makes a way in, for one coordinator's Config.
func NewLocal() *Local { return &Local{bufconn.Listen(localBytes)} }

// Dial connects; it waits until the coordinator accepts.
func (l *Local) Dial(ctx context.Context, _ string) (net.Conn, error) {
	return l.pipes.DialContext(ctx)
}

// Accept, Close and Addr make it a net.Listener.
func (l *Local) Accept() (net.Conn, error) {
	conn, err := l.pipes.Accept()
	if err != nil {
		return nil, err
	}
	return localConn{conn}, nil
}

func (l *Local) Close() error   { return l.pipes.Close() }
func (l *Local) Addr() net.Addr { return l.pipes.Addr() }

// localConn tells the handshake where a connection comes from.
type localConn struct{ net.Conn }

// localOrRemote shakes hands with those who come over the network, and tells of whom it does not come to terms with: an
// expired certificate of a worker shows nowhere else.
type localOrRemote struct {
	credentials.TransportCredentials
	log  *slog.Logger
	told *rate.Limiter // lines in the log, which anybody may cause
}

func (c localOrRemote) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if _, ok := conn.(localConn); ok {
		return conn, auth.InProcess{}, nil
	}
	secured, info, err := c.TransportCredentials.ServerHandshake(conn)
	if err != nil && !errors.Is(err, io.EOF) && c.told.Allow() { // EOF: somebody looks whether the port is open
		c.log.Warn("a connection was refused", "peer", conn.RemoteAddr().String(), "error", err)
	}
	return secured, info, err
}

func (c localOrRemote) Clone() credentials.TransportCredentials {
	return localOrRemote{c.TransportCredentials.Clone(), c.log, c.told}
}
