package auth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/surmise-ml/surmise/internal/bounded"
)

// maxPEMBytes bounds a file of certificates or a key.
const maxPEMBytes = 1 << 20

// TLSFiles names PEM files.
type TLSFiles struct {
	Cert     string // certificate chain of the server, leaf first
	Key      string // its key
	ClientCA string // whose certificates callers must show; empty: they show none
}

// serverCertificates is what the files hold.
type serverCertificates struct {
	own     tls.Certificate
	clients *x509.CertPool // nil: callers show no certificate
}

// ServerTLS is TLS 1.3 by certificates that are read again when their files change: handshakes after the change use the
// new ones, connections that stand go on. With a ClientCA every caller must show a certificate that it signed.
func ServerTLS(files TLSFiles, log *slog.Logger) (*tls.Config, error) {
	if files.Cert == "" || files.Key == "" {
		return nil, errors.New("TLS takes a certificate and its key")
	}
	paths := []string{files.Cert, files.Key}
	if files.ClientCA != "" {
		paths = append(paths, files.ClientCA)
	}
	end := &endWarning{log: log, path: files.Cert}
	read := func() (*serverCertificates, error) {
		now, err := readServerCertificates(files)
		if err == nil {
			end.check(now.own.Leaf, time.Now())
		}
		return now, err
	}
	current, err := watch(log, read, paths...)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// A ticket would let a caller in by a client CA that has gone since.
		SessionTicketsDisabled: true,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			now := current.get()
			end.check(now.own.Leaf, time.Now()) // whatever renews it may have stopped
			config := &tls.Config{
				MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true,
				NextProtos: []string{"h2"}, Certificates: []tls.Certificate{now.own},
			}
			if now.clients != nil {
				config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, now.clients
			}
			return config, nil
		},
	}, nil
}

func readServerCertificates(files TLSFiles) (*serverCertificates, error) {
	own, err := ReadKeyPair(files.Cert, files.Key)
	if err != nil {
		return nil, err
	}
	out := &serverCertificates{own: own}
	if files.ClientCA != "" {
		if out.clients, err = ReadPool(files.ClientCA); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// expirySoon is how long before its end a certificate is told of, once in expiryEvery.
const (
	expirySoon  = 14 * 24 * time.Hour
	expiryEvery = 24 * time.Hour
)

// endWarning tells of a certificate that nobody accepts any more, or soon.
type endWarning struct {
	log  *slog.Logger
	path string

	mu   sync.Mutex
	told map[string]time.Time // guarded by mu; when, by what was said of which certificate
}

func (w *endWarning) check(leaf *x509.Certificate, now time.Time) {
	if leaf == nil || !now.Before(leaf.NotBefore) && now.Add(expirySoon).Before(leaf.NotAfter) {
		return
	}
	level, says, at := slog.LevelWarn, "the certificate expires soon", leaf.NotAfter
	switch {
	case now.After(leaf.NotAfter):
		level, says = slog.LevelError, "the certificate has expired: no client accepts it"
	case now.Before(leaf.NotBefore):
		level, says, at = slog.LevelError, "the certificate is not valid yet: no client accepts it", leaf.NotBefore
	}
	what := says + at.String()
	w.mu.Lock()
	defer w.mu.Unlock()
	if last, ok := w.told[what]; ok && now.Sub(last) < expiryEvery {
		return
	}
	w.told = map[string]time.Time{what: now}
	w.log.Log(context.Background(), level, says, "file", w.path, "at", at)
}

// ReadKeyPair reads a certificate chain and its key.
func ReadKeyPair(cert, key string) (tls.Certificate, error) {
	chain, err := bounded.ReadFile(cert, maxPEMBytes)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("reading the certificate: %w", err)
	}
	secret, err := bounded.ReadFile(key, maxPEMBytes)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("reading the key: %w", err)
	}
	pair, err := tls.X509KeyPair(chain, secret)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("certificate %s with key %s: %w", cert, key, err)
	}
	return pair, nil
}

// ReadPool reads certificates of authorities.
func ReadPool(path string) (*x509.CertPool, error) {
	text, err := bounded.ReadFile(path, maxPEMBytes)
	if err != nil {
		return nil, fmt.Errorf("reading certificates of authorities: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s holds no certificate", path)
	}
	return pool, nil
}
