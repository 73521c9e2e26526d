package queuetest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
)

// Postgres is a PostgreSQL server of a test's own: the real one, from Debian's package postgresql, in a temporary folder
// and behind a Unix socket in it.
type Postgres struct {
	dir       string
	databases int
}

// StartPostgres starts a server that ends with the test, and with the test's process if that is killed. Without the
// server's programs the test is skipped. With durable, what is committed survives a power cut, as it should outside of
// tests; without, it survives the end of any process.
func StartPostgres(tb testing.TB, durable bool) *Postgres {
	tb.Helper()
	if why := PostgresMissing(); why != "" {
		tb.Skip(why)
	}
	bin := postgresFolder()
	dir, err := os.MkdirTemp("", "surmise-pg-")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Errorf("removing the server's folder: %v", err)
		}
	})
	// PostgreSQL refuses to run as root: the package brings a user for it.
	var attributes syscall.SysProcAttr
	if os.Getuid() == 0 {
		uid, gid, err := postgresUser()
		if err != nil {
			tb.Fatal(err)
		}
		attributes.Credential = &syscall.Credential{Uid: uid, Gid: gid}
		if err := os.Chown(dir, int(uid), int(gid)); err != nil {
			tb.Fatal(err)
		}
	}
	data := filepath.Join(dir, "data")
	ctx := context.WithoutCancel(tb.Context())
	initdb := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "--pgdata", data, "--no-sync", "--auth", "trust",
		"--username", "surmise", "--encoding", "UTF8", "--locale", "C.UTF-8")
	initdb.Dir = dir
	initdb.SysProcAttr = &attributes
	if out, err := initdb.CombinedOutput(); err != nil {
		tb.Fatalf("%s: %v\n%s", initdb, err, out)
	}

	settings := []string{"-D", data, "-k", dir, "-c", "listen_addresses=", "-c", "max_connections=200", "-c", "shared_buffers=128MB"}
	if !durable {
		settings = append(settings, "-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off")
	}
	// The shell reads until this process closes its end, alive or killed, and then ends the server.
	server := exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", `"$0" "$@" & read -r _; kill -INT $!; wait $!`,
		filepath.Join(bin, "postgres")}, settings...)...)
	server.Dir = dir
	server.SysProcAttr = &attributes
	keep, err := server.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	output, err := server.StderrPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := server.Start(); err != nil {
		tb.Fatal(err)
	}
	lines := bufio.NewReader(output)
	drained := make(chan struct{})
	tb.Cleanup(func() {
		keep.Close()
		<-drained
		if err := server.Wait(); err != nil {
			tb.Errorf("PostgreSQL: %v", err)
		}
	})
	var log strings.Builder
	for {
		line, err := lines.ReadString('\n')
		log.WriteString(line)
		if err != nil {
			close(drained)
			tb.Fatalf("PostgreSQL did not start: %v\n%s", err, log.String())
		}
		if strings.Contains(line, "ready to accept connections") {
			break
		}
	}
	go func() {
		defer close(drained)
		_, _ = io.Copy(io.Discard, lines) // ends with the server
	}()
	return &Postgres{dir: dir}
}

// PostgresMissing says what StartPostgres needs and this machine lacks; "" for nothing.
func PostgresMissing() string {
	if postgresFolder() == "" {
		return "needs PostgreSQL: neither initdb in PATH nor /usr/lib/postgresql/*/bin/initdb is there (Debian's package postgresql; deploy/setup.sh installs it)"
	}
	if os.Getuid() != 0 {
		return ""
	}
	if _, _, err := postgresUser(); err != nil {
		return fmt.Sprintf("needs a user for PostgreSQL, which does not run as root: %v", err)
	}
	return ""
}

// Database makes an empty database and returns its URL.
func (p *Postgres) Database(tb testing.TB) string {
	tb.Helper()
	conn, err := pgx.Connect(tb.Context(), p.url("postgres"))
	if err != nil {
		tb.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(tb.Context()))
	p.databases++
	name := fmt.Sprintf("test%d", p.databases)
	if _, err := conn.Exec(tb.Context(), "CREATE DATABASE "+name); err != nil {
		tb.Fatal(err)
	}
	return p.url(name)
}

func (p *Postgres) url(database string) string {
	return (&url.URL{Scheme: "postgres", User: url.User("surmise"), Path: "/" + database, RawQuery: url.Values{"host": {p.dir}}.Encode()}).String()
}

// postgresFolder is where the newest server's programs lie; "" when there is none.
func postgresFolder() string {
	if path, err := exec.LookPath("initdb"); err == nil {
		return filepath.Dir(path)
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb") // only a bad pattern is an error
	if len(found) == 0 {
		return ""
	}
	version := func(path string) int {
		n, _ := strconv.Atoi(strings.Split(path, "/")[4]) // 0 for what is no number
		return n
	}
	newest := slices.MaxFunc(found, func(a, b string) int { return version(a) - version(b) })
	return filepath.Dir(newest)
}

func postgresUser() (uid, gid uint32, err error) {
	u, err := user.Lookup("postgres")
	if err != nil {
		return 0, 0, err
	}
	id, err := strconv.ParseUint(u.Uid, 10, 32)
	group, groupErr := strconv.ParseUint(u.Gid, 10, 32)
	return uint32(id), uint32(group), errors.Join(err, groupErr)
}
