// Package slurmtest runs a Slurm cluster of its own for a test: munged, slurmctld and slurmds as private processes, with
// their files in a temporary folder and on ports of their own, and if asked for an accounting with its database. It touches
// no Slurm that the machine may have.
package slurmtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience ends what should take a few seconds.
const patience = 30 * time.Second

// Cluster is a running cluster: nodes n1 and n2, and on both of them the partitions low, which is the default, and high,
// whose jobs preempt those of low.
type Cluster struct {
	t       testing.TB
	dir     string
	Conf    string             // its slurm.conf
	daemons map[string]*daemon // by program, and node
	killed  []string           // nodes of KillNode

	ended sync.Once
}

// daemon is a process of the cluster.
type daemon struct {
	cmd  *exec.Cmd
	log  *os.File
	done chan struct{} // closed when it has ended
}

// Options say what a cluster has beside its two nodes. The zero value is nothing.
type Options struct {
	GPUs       int  // of n1, to Slurm; there is no device behind them
	Accounting bool // slurmdbd with a MariaDB; then what has ended is soon forgotten by the controller
}

// config is the cluster's. cred_expire: a job that is requeued waits for so long. No job uses more than one CPU, and each
// node has two, whatever this machine has.
const config = `ClusterName=private
SlurmctldHost=%[1]s(127.0.0.1)
SlurmctldPort=%[2]d
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=%[3]s/munge.socket,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation=%[3]s/state
SlurmdSpoolDir=%[3]s/spool-%%n
SlurmctldPidFile=%[3]s/slurmctld.pid
SlurmdPidFile=%[3]s/slurmd-%%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=0,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=%[6]d
ReturnToService=2
%[7]s
NodeName=n1 NodeHostname=%[1]s NodeAddr=127.0.0.1 Port=%[4]d CPUs=2 %[8]s
NodeName=n2 NodeHostname=%[1]s NodeAddr=127.0.0.1 Port=%[5]d CPUs=2
PartitionName=low Nodes=n[1-2] Default=YES PriorityTier=1 MaxTime=60 PreemptMode=REQUEUE State=UP
PartitionName=high Nodes=n[1-2] PriorityTier=10 PreemptMode=OFF State=UP
`

// killWait is how long a job that is sent SIGTERM may take, in seconds.
const killWait = 10

// Start starts a cluster that lasts as long as the test. It skips the test, with the reason, where the machine lacks what
// that takes.
func Start(t testing.TB) *Cluster { t.Helper(); return StartWith(t, Options{}) }

// StartWith is Start of a cluster that has more.
func StartWith(t testing.TB, o Options) *Cluster {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a private Slurm cluster runs its jobs as root; this user is not")
	}
	programs := []string{"munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol"}
	if o.Accounting {
		programs = append(programs, "slurmdbd", "sacct", "mariadbd", "mariadb-install-db")
	}
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("no %s on this machine (Debian: munge slurmctld slurmd slurmdbd slurm-client mariadb-server-core mariadb-client-core; deploy/setup.sh)", program)
		}
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	host, _, _ = strings.Cut(host, ".")
	dir, err := os.MkdirTemp("/tmp", "slurm-") // sockets have short names
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // what is left is no result
	c := &Cluster{t: t, dir: dir, Conf: filepath.Join(dir, "slurm.conf"), daemons: map[string]*daemon{}}
	if err := os.Chmod(dir, 0o755); err != nil { // munged demands it
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "state"), 0o700); err != nil {
		t.Fatal(err)
	}
	key := make([]byte, 1024)
	_, _ = rand.Read(key) // never fails
	c.write("munge.key", key)
	ports := freePorts(t, 4)
	accounting, gres := "AccountingStorageType=accounting_storage/none", ""
	if o.Accounting {
		accounting = fmt.Sprintf("AccountingStorageType=accounting_storage/slurmdbd\nAccountingStorageHost=127.0.0.1\n"+
			"AccountingStoragePort=%d\nAccountingStoragePass=%s/munge.socket\nMinJobAge=2", ports[3], dir) // s; 2 is the least
	}
	if o.GPUs > 0 {
		accounting += "\nGresTypes=gpu"
		gres = fmt.Sprintf("Gres=gpu:%d", o.GPUs)
		var devices strings.Builder
		for i := range o.GPUs {
			device := filepath.Join(dir, fmt.Sprintf("gpu%d", i))
			if err := os.Symlink(os.DevNull, device); err != nil { // Slurm demands a character device
				t.Fatal(err)
			}
			fmt.Fprintf(&devices, "NodeName=n1 Name=gpu File=%s\n", device)
		}
		c.write("gres.conf", []byte(devices.String()))
	}
	c.write("slurm.conf", fmt.Appendf(nil, config, host, ports[0], dir, ports[1], ports[2], killWait, accounting, gres))

	munge := func(name string) string { return filepath.Join(dir, "munge."+name) }
	c.daemon("munged", "--foreground", "--key-file="+munge("key"), "--socket="+munge("socket"),
		"--pid-file="+munge("pid"), "--seed-file="+munge("seed"), "--log-file="+munge("log"))
	c.await("munged", func() error {
		_, err := os.Stat(munge("socket"))
		return err
	})
	if o.Accounting {
		c.account(host, ports[3])
	}
	c.daemon("slurmctld", "-D", "-f", c.Conf)
	c.StartNode("n1")
	c.StartNode("n2")
	t.Cleanup(c.End) // before the daemons: they leave what runs alone
	c.await("the nodes", func() error {
		out, err := c.run("sinfo", "--noheader", "--partition=high", "--format=%T %D")
		if err == nil && strings.TrimSpace(out) != "idle 2" {
			err = fmt.Errorf("nodes are %q", strings.TrimSpace(out))
		}
		return err
	})
	return c
}

func (c *Cluster) write(name string, data []byte) {
	c.t.Helper()
	if err := os.WriteFile(filepath.Join(c.dir, name), data, 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// daemon runs a program until the test is over.
func (c *Cluster) daemon(program string, args ...string) {
	c.t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		c.t.Fatal(err)
	}
	log, err := os.CreateTemp(c.dir, program+"-*.log")
	if err != nil {
		c.t.Fatal(err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(c.t.Context()), path, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "SLURM_CONF="+c.Conf)  // slurmdbd reads its own settings beside it
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C reaches the test first
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	d := &daemon{cmd, log, make(chan struct{})}
	go func() {
		_ = cmd.Wait() // its error is the signal
		close(d.done)
	}()
	c.daemons[strings.TrimSpace(program+" "+nodeOf(args))] = d
	c.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		kill := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
		<-d.done
		kill.Stop()
		_ = log.Close()
	})
}

func nodeOf(args []string) string {
	if len(args) > 2 && args[1] == "-N" {
		return args[2]
	}
	return ""
}

// StartNode starts the slurmd of a node, n1 or n2.
func (c *Cluster) StartNode(name string) {
	c.t.Helper()
	c.daemon("slurmd", "-D", "-N", name, "-f", c.Conf)
}

// KillNode kills the slurmd of a node, as when the node cannot be reached: what runs there runs on. The controller finds
// out by itself after SlurmdTimeout, minutes, or when it is told that the node is down.
func (c *Cluster) KillNode(name string) {
	c.t.Helper()
	d := c.daemons["slurmd "+name]
	if err := d.cmd.Process.Kill(); err != nil {
		c.t.Fatal(err)
	}
	<-d.done
	c.killed = append(c.killed, name)
}

// await asks until there is no error. Slurm tells nobody when it is ready.
func (c *Cluster) await(what string, ready func() error) {
	c.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := ready()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%s did not become ready in %v: %v\n%s", what, patience, err, c.logs())
		}
		select {
		case <-c.t.Context().Done():
			c.t.Fatal(c.t.Context().Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// logs is the end of what each daemon logged.
func (c *Cluster) logs() string {
	var out strings.Builder
	for name, d := range c.daemons {
		text, _ := os.ReadFile(d.log.Name()) // for people, if it is there
		fmt.Fprintf(&out, "--- %s\n%s\n", name, text[max(0, len(text)-4000):])
	}
	return out.String()
}

// End kills the jobs that are left, whose processes would outlive the daemons; once is enough. A test whose folder they write to
// calls it before that is removed.
func (c *Cluster) End() { c.ended.Do(c.end) }

func (c *Cluster) end() {
	if c.t.Failed() {
		c.t.Log(c.logs())
	}
	if out, err := c.run("scancel", "--user=root", "--signal=KILL", "--full"); err != nil {
		c.t.Logf("killing what is left: %v: %s", err, out)
	}
	if out, err := c.run("scancel", "--user=root"); err != nil {
		c.t.Logf("cancelling what is left: %v: %s", err, out)
	}
	for _, node := range c.killed { // of what it ran, nobody says that it has ended
		if out, err := c.run("scontrol", "update", "nodename="+node, "state=down", "reason=over"); err != nil {
			c.t.Logf("setting %s down: %v: %s", node, err, out)
		}
	}
	deadline := time.Now().Add(patience)
	for {
		out, err := c.run("squeue", "--noheader", "--states=RUNNING,COMPLETING")
		if err == nil && strings.TrimSpace(out) == "" {
			return
		}
		if time.Now().After(deadline) {
			c.t.Errorf("jobs still run: %s %v", out, err)
			return
		}
		time.Sleep(100 * time.Millisecond) // Slurm tells nobody
	}
}

// Run runs a command of Slurm on the cluster and returns what it printed; its failure fails the test.
func (c *Cluster) Run(name string, args ...string) string {
	c.t.Helper()
	out, err := c.run(name, args...)
	if err != nil {
		c.t.Fatalf("%s %s: %v", name, strings.Join(args, " "), err)
	}
	return strings.TrimSpace(out)
}

func (c *Cluster) run(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.t.Context()), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "SLURM_CONF="+c.Conf)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		err = errors.Join(err, errors.New(strings.TrimSpace(errs.String())))
	}
	return string(out), err
}

// freePorts are ports that nobody listens on, below those that the system gives to whoever asks for any: one of these would
// be taken by another program between here and the daemon's start every so often.
func freePorts(t testing.TB, n int) (ports []int) {
	t.Helper()
	const first, last = 10_000, 30_000 // the system's begin at 32,768
	for tries := 0; len(ports) < n; tries++ {
		if tries == 1000 {
			t.Fatalf("no %d free ports from %d to %d", n, first, last)
		}
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", first+mathrand.IntN(last-first)))
		if err != nil {
			continue
		}
		defer l.Close() // after all are known: none twice
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}
