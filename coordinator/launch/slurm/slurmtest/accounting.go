package slurmtest

import (
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
)

// slurmdbd's settings. It takes the user that owns the files, and the database's root without a password: both are this
// test's.
const accountingConfig = `AuthType=auth/munge
AuthInfo=socket=%[1]s/munge.socket
DbdHost=%[2]s
DbdAddr=127.0.0.1
DbdPort=%[3]d
SlurmUser=root
PidFile=%[1]s/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=%[4]d
StorageUser=slurm
StorageLoc=accounts
`

// account starts a database and slurmdbd, and waits until that takes accounts.
func (c *Cluster) account(host string, port int) {
	c.t.Helper()
	data := filepath.Join(c.dir, "mariadb")
	install := exec.CommandContext(c.t.Context(), "mariadb-install-db", "--no-defaults", "--user=root", "--datadir="+data,
		"--auth-root-authentication-method=normal", "--skip-test-db")
	if out, err := install.CombinedOutput(); err != nil {
		c.t.Fatalf("mariadb-install-db: %v\n%s", err, out)
	}
	c.write("grants.sql", []byte("CREATE USER slurm@127.0.0.1;\nGRANT ALL ON accounts.* TO slurm@127.0.0.1;\n"))
	database := freePorts(c.t, 1)[0]
	c.daemon("mariadbd", "--no-defaults", "--user=root", "--datadir="+data, "--socket="+filepath.Join(c.dir, "mariadb.socket"),
		fmt.Sprintf("--port=%d", database), "--bind-address=127.0.0.1", "--skip-name-resolve", "--pid-file="+filepath.Join(c.dir, "mariadb.pid"),
		"--init-file="+filepath.Join(c.dir, "grants.sql"), "--innodb-buffer-pool-size=32M")
	c.await("the database", func() error { return c.answers(database) })
	c.write("slurmdbd.conf", fmt.Appendf(nil, accountingConfig, c.dir, host, port, database))
	c.daemon("slurmdbd", "-D")
	c.await("slurmdbd", func() error { return c.answers(port) })
	c.await("the cluster's account", func() error {
		_, err := c.run("sacctmgr", "--immediate", "add", "cluster", "private")
		return err
	})
}

// answers says whether somebody listens on a port of this machine.
func (c *Cluster) answers(port int) error {
	conn, err := new(net.Dialer).DialContext(c.t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err
	}
	return conn.Close()
}
