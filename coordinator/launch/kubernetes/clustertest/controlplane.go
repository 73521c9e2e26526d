// Package clustertest runs a private Kubernetes for tests: the real API server, controller manager and scheduler on an etcd
// of their own, and a kubelet that runs the commands of pods as processes of this machine. All of it listens on loopback
// and ends with the test. It takes root, for the folders that a pod sees are mounts of its own.
package clustertest

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Env names the folder with kube-apiserver, kube-controller-manager and kube-scheduler; `make test-kubernetes` sets it.
const Env = "SURMISE_KUBERNETES"

// startPatience is how long a part may take to answer, on a busy machine.
const startPatience = 5 * time.Minute

// Cluster is a private Kubernetes with one node.
type Cluster struct {
	Admin  *rest.Config // may do everything
	Client kubernetes.Interface
	Node   *Kubelet

	dir string
	ca  *authority
	url string
}

// Start starts a cluster that ends with the test. images says which command an image runs, before a container's args. It
// skips the test where Env names no folder.
func Start(t *testing.T, images map[string][]string) *Cluster {
	t.Helper()
	bin := os.Getenv(Env)
	if bin == "" {
		t.Skipf("%s is not set; make test-kubernetes builds a control plane and sets it", Env)
	}
	if os.Geteuid() != 0 {
		t.Skip("not root: pods get mounts of their own")
	}
	c := &Cluster{dir: t.TempDir(), ca: newAuthority(t)}
	c.writeKeys(t)
	ports := freePorts(t, 3)
	etcd := fmt.Sprintf("http://127.0.0.1:%d", ports[0])
	peer := fmt.Sprintf("http://127.0.0.1:%d", ports[1])
	c.url = fmt.Sprintf("https://127.0.0.1:%d", ports[2])

	c.run(t, "etcd", "--name=test", "--data-dir="+c.path("etcd"), "--logger=zap",
		"--listen-client-urls="+etcd, "--advertise-client-urls="+etcd,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=test="+peer)
	await(t, "etcd", http.DefaultClient, etcd+"/health")

	c.run(t, filepath.Join(bin, "kube-apiserver"),
		"--etcd-servers="+etcd, "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--secure-port="+strconv.Itoa(ports[2]),
		"--tls-cert-file="+c.path("server.pem"), "--tls-private-key-file="+c.path("server.key"), "--client-ca-file="+c.path("ca.pem"),
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+c.path("accounts.key"),
		"--service-account-signing-key-file="+c.path("accounts.key"), "--service-cluster-ip-range=10.96.0.0/24", "--authorization-mode=Node,RBAC")
	c.Admin = c.config(t, "admin", "system:masters")
	client, err := rest.HTTPClientFor(c.Admin)
	if err != nil {
		t.Fatal(err)
	}
	await(t, "kube-apiserver", client, c.url+"/readyz")
	if c.Client, err = kubernetes.NewForConfig(c.Admin); err != nil {
		t.Fatal(err)
	}

	c.run(t, filepath.Join(bin, "kube-controller-manager"), "--kubeconfig="+c.kubeconfig(t, "system:kube-controller-manager"), "--leader-elect=false", "--secure-port=0",
		"--use-service-account-credentials=true", "--service-account-private-key-file="+c.path("accounts.key"), "--root-ca-file="+c.path("ca.pem"))
	c.run(t, filepath.Join(bin, "kube-scheduler"), "--kubeconfig="+c.kubeconfig(t, "system:kube-scheduler"), "--leader-elect=false", "--secure-port=0")

	c.Node = c.startKubelet(t, "node-1", images)
	return c
}

func (c *Cluster) path(name string) string { return filepath.Join(c.dir, name) }

// run starts a part in the background and kills it with the test. Its log goes to a file, whose end a failed test shows.
func (c *Cluster) run(t *testing.T, program string, args ...string) {
	t.Helper()
	name := filepath.Base(program)
	log, err := os.Create(c.path(name + ".log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting %s: %v", name, err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // its error is the signal
		log.Close()
		if t.Failed() {
			t.Logf("the end of the log of %s:\n%s", name, tail(log.Name(), 4<<10))
		}
	})
}

// tail is the last bytes of a file.
func tail(path string, n int) []byte {
	text, err := os.ReadFile(path)
	if err != nil {
		return []byte(err.Error())
	}
	text = text[max(0, len(text)-n):]
	if i := bytes.IndexByte(text, '\n'); i >= 0 && len(text) == n {
		text = text[i+1:]
	}
	return text
}

// await asks until the answer is 200.
func await(t *testing.T, what string, client *http.Client, url string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startPatience)
	defer cancel()
	Await(t, what+" to answer", startPatience, func() (bool, string) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := client.Do(request)
		if err != nil {
			return false, err.Error()
		}
		defer answer.Body.Close()
		return answer.StatusCode == http.StatusOK, answer.Status
	})
}

// Await asks again and again, as what is asked tells nobody when it changes, until it is so or patience ends.
func Await(t *testing.T, what string, patience time.Duration, so func() (good bool, now string)) {
	t.Helper()
	timeout := time.After(patience)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		good, now := so()
		if good {
			return
		}
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatalf("waited for %s, and it is %s", what, now)
		case <-timeout:
			t.Fatalf("waited %v for %s, and it is %s", patience, what, now)
		}
	}
}

// config is a client's configuration for a user, by certificate.
func (c *Cluster) config(t *testing.T, user string, groups ...string) *rest.Config {
	t.Helper()
	cert, key := c.ca.issue(t, user, groups, x509.ExtKeyUsageClientAuth)
	return &rest.Config{Host: c.url, QPS: 200, Burst: 400, TLSClientConfig: rest.TLSClientConfig{CAData: c.ca.pem, CertData: cert, KeyData: key}}
}

// kubeconfig writes a user's file and returns its path.
func (c *Cluster) kubeconfig(t *testing.T, user string, groups ...string) string {
	t.Helper()
	path := c.path(filepath.Base(user) + ".kubeconfig")
	WriteKubeconfig(t, path, c.config(t, user, groups...), "default")
	return path
}

// AdminKubeconfig writes a file for kubectl.
func (c *Cluster) AdminKubeconfig(t *testing.T, namespace string) string {
	t.Helper()
	path := c.path("admin.kubeconfig")
	WriteKubeconfig(t, path, c.Admin, namespace)
	return path
}

// WriteKubeconfig writes a configuration as a file.
func WriteKubeconfig(t *testing.T, path string, config *rest.Config, namespace string) {
	t.Helper()
	err := clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"test": {Server: config.Host, CertificateAuthorityData: config.CAData}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"test": {ClientCertificateData: config.CertData, ClientKeyData: config.KeyData, Token: config.BearerToken}},
		Contexts:       map[string]*clientcmdapi.Context{"test": {Cluster: "test", AuthInfo: "test", Namespace: namespace}},
		CurrentContext: "test",
	}, path)
	if err != nil {
		t.Fatal(err)
	}
}

// writeKeys writes the authority, the API server's certificate and the key that signs the tokens of service accounts.
func (c *Cluster) writeKeys(t *testing.T) {
	t.Helper()
	cert, key := c.ca.issue(t, "kube-apiserver", nil, x509.ExtKeyUsageServerAuth, "127.0.0.1", "10.96.0.1")
	_, accounts := c.ca.issue(t, "accounts", nil, x509.ExtKeyUsageClientAuth)
	for name, text := range map[string][]byte{"ca.pem": c.ca.pem, "server.pem": cert, "server.key": key, "accounts.key": accounts} {
		if err := os.WriteFile(c.path(name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// freePorts are ports of loopback that nobody uses just now.
func freePorts(t *testing.T, n int) (ports []int) {
	t.Helper()
	for range n {
		var config net.ListenConfig
		l, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // when all are known, so that they differ
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

// Namespace makes a namespace and waits until pods can be made in it.
func (c *Cluster) Namespace(t *testing.T, name string) {
	t.Helper()
	namespace := namespaceObject(name)
	if _, err := c.Client.CoreV1().Namespaces().Create(t.Context(), namespace, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.AwaitNamespace(t, name)
}

// AwaitNamespace waits until pods can be made in a namespace: until it has its service account and the authority's
// certificate.
func (c *Cluster) AwaitNamespace(t *testing.T, name string) {
	t.Helper()
	Await(t, "namespace "+name, startPatience, func() (bool, string) {
		if _, err := c.Client.CoreV1().ServiceAccounts(name).Get(t.Context(), "default", metav1.GetOptions{}); err != nil {
			return false, err.Error()
		}
		if _, err := c.Client.CoreV1().ConfigMaps(name).Get(t.Context(), rootCA, metav1.GetOptions{}); err != nil {
			return false, err.Error()
		}
		return true, ""
	})
}

func encodePEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// User is the configuration of a user who may do nothing but what bindings say.
func (c *Cluster) User(t *testing.T, name string) *rest.Config {
	t.Helper()
	return c.config(t, name)
}
