package kubernetes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"

	"github.com/surmise-ml/surmise/coordinator/launch/kubernetes/clustertest"
	"github.com/surmise-ml/surmise/coordinator/queue/queuetest"
)

const (
	namespace  = "surmise"
	configFile = "launcher.json" // in the ConfigMap
	patience   = 5 * time.Minute
)

// server is the API server, for objects of any kind.
type server struct {
	*clustertest.Cluster
	client dynamic.Interface
	mapper meta.RESTMapper
}

func startServer(t *testing.T, images map[string][]string) server {
	t.Helper()
	c := clustertest.Start(t, images)
	client, err := dynamic.NewForConfig(c.Admin)
	if err != nil {
		t.Fatal(err)
	}
	groups, err := restmapper.GetAPIGroupResources(c.Client.Discovery())
	if err != nil {
		t.Fatal(err)
	}
	return server{c, client, restmapper.NewDiscoveryRESTMapper(groups)}
}

// apply sends an object as `kubectl apply --server-side --validate=strict` does; dry runs change nothing.
func (s server) apply(t *testing.T, object runtime.Object, dry bool) error {
	t.Helper()
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{Object: content}
	unstructured.RemoveNestedField(u.Object, "status")
	text, err := u.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	return s.patch(t, u, text, dry)
}

func (s server) patch(t *testing.T, u *unstructured.Unstructured, text []byte, dry bool) error {
	t.Helper()
	mapping, err := s.mapper.RESTMapping(u.GroupVersionKind().GroupKind(), u.GroupVersionKind().Version)
	if err != nil {
		return err
	}
	var client dynamic.ResourceInterface = s.client.Resource(mapping.Resource)
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		client = s.client.Resource(mapping.Resource).Namespace(u.GetNamespace())
	}
	options := metav1.PatchOptions{FieldManager: "test", FieldValidation: metav1.FieldValidationStrict}
	if dry {
		options.DryRun = []string{metav1.DryRunAll}
	}
	_, err = client.Patch(t.Context(), u.GetName(), types.ApplyPatchType, text, options)
	return err
}

// A real API server takes every manifest of every overlay, and the pods that the coordinator will start.
func TestManifestsOnCluster(t *testing.T) {
	s := startServer(t, nil)
	for _, overlay := range overlays {
		all := render(t, overlay).Resources()
		for _, r := range all { // the others are in it
			if r.GetKind() == "Namespace" {
				text, err := r.MarshalJSON()
				if err != nil {
					t.Fatal(err)
				}
				if err := s.patch(t, object(t, text), text, false); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, r := range all {
			text, err := r.MarshalJSON()
			if err != nil {
				t.Fatal(err)
			}
			if err := s.patch(t, object(t, text), text, true); err != nil {
				t.Errorf("%s: %s: %v", overlay, r.CurId(), err)
			}
			spoilt := strings.Replace(string(text), `"metadata":{`, `"nonsense":1,"metadata":{`, 1)
			if err := s.patch(t, object(t, text), []byte(spoilt), true); err == nil {
				t.Errorf("%s: %s with an unknown field is taken", overlay, r.CurId())
			}
		}
		for name, template := range workerPods(t, decode(t, overlay)) {
			s.AwaitNamespace(t, namespace)
			s.account(t, template.Spec.ServiceAccountName)
			pod := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{Name: "worker", Namespace: namespace, Labels: template.Labels}, Spec: template.Spec}
			if err := s.apply(t, pod, true); err != nil {
				t.Errorf("%s: a pod of %s: %v", overlay, name, err)
			}
			pod.Spec.SecurityContext.RunAsNonRoot = new(false)
			if err := s.apply(t, pod, true); err == nil || !strings.Contains(err.Error(), "runAsNonRoot") {
				t.Errorf("%s: a pod of %s that may be root: %v", overlay, name, err)
			}
		}
	}
}

func object(t *testing.T, text []byte) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(text); err != nil {
		t.Fatal(err)
	}
	return u
}

// account makes a service account unless it is there.
func (s server) account(t *testing.T, name string) {
	t.Helper()
	_, err := s.Client.CoreV1().ServiceAccounts(namespace).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
}

// installation is Surmise on a cluster, with a folder of the user's.
type installation struct {
	server
	dir string // certificates, tokens, clips
}

// surmise runs the command as a user outside of the cluster does, and returns what it prints.
func (i installation) surmise(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary(t, "surmise"), args...)
	cmd.Dir = i.dir
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = fmt.Errorf("surmise %s: %w: %s", strings.Join(args, " "), err, exit.Stderr)
	}
	return string(out), err
}

// remote runs a command that asks the coordinator.
func (i installation) remote(t *testing.T, command string, args ...string) string {
	t.Helper()
	out, err := i.surmise(t, append([]string{command, "--coordinator", "localhost:7433", "--tls-ca", "ca.crt", "--token-file", "alice.token"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func binary(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs("../../bin/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Skipf("%v; make test-kubernetes builds it", err)
	}
	return path
}

// install does what the guide does, with the overlay for CPUs: secrets, then the manifests. Workers are small, and the
// machine's folder stands for the volume that nodes share.
func install(t *testing.T, s server) installation {
	t.Helper()
	store := overTCP(t, queuetest.StartPostgres(t, false).Database(t))
	i := installation{server: s, dir: sharedFolder(t)}
	if _, err := i.surmise(t, "synth", "--out", "clips", "--clips", "12", "--pairs", "2", "--size", "32", "--frames", "16", "--seed", "1"); err != nil {
		t.Fatal(err)
	}
	cert, key, ca := s.Certificate(t, "surmise-coordinator", "localhost")
	i.write(t, "ca.crt", ca)
	for owner, role := range map[string]string{"alice": "submitter", "pool": "worker"} {
		token, err := i.surmise(t, "token", "create", "--role", role, "--owner", owner)
		if err != nil {
			t.Fatal(err)
		}
		i.write(t, owner+".token", []byte(token))
	}

	objects := decode(t, "overlays/cpu")
	for _, o := range only[*corev1.Namespace](objects) {
		if err := s.apply(t, o, false); err != nil {
			t.Fatal(err)
		}
	}
	s.AwaitNamespace(t, namespace)
	i.secret(t, "surmise-postgres", map[string][]byte{"store": []byte(store), "password": []byte("none")})
	i.secret(t, "surmise-tls", map[string][]byte{"tls.crt": cert, "tls.key": key, "ca.crt": ca})
	i.secret(t, "surmise-tokens", map[string][]byte{"tokens.json": i.read(t, "tokens.json")})
	i.secret(t, "surmise-worker-token", map[string][]byte{"token": i.read(t, "pool.token")})
	i.volume(t)
	for _, o := range objects {
		switch o := o.(type) {
		case *appsv1.Deployment:
			o.Spec.Replicas = new(int32(1)) // there is one address for all pods here
		case *corev1.ConfigMap:
			i.shrink(t, o)
		}
		if err := s.apply(t, o, false); err != nil {
			t.Fatal(err)
		}
	}
	return i
}

// overTCP makes a database that listens on a Unix socket one that pods reach, and returns its URL.
func overTCP(t *testing.T, store string) string {
	t.Helper()
	u, err := url.Parse(store)
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(u.Query().Get("host"), ".s.PGSQL.5432")
	var config net.ListenConfig
	l, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var copying sync.WaitGroup
	t.Cleanup(copying.Wait)
	t.Cleanup(func() { l.Close() })
	ctx := t.Context() // ends before the cleanup
	copying.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			var dialer net.Dialer
			server, err := dialer.DialContext(ctx, "unix", socket)
			if err != nil {
				client.Close()
				continue
			}
			context.AfterFunc(ctx, func() {
				client.Close()
				server.Close()
			})
			for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
				copying.Go(func() {
					_, _ = io.Copy(way[0], way[1]) // that one side ends is no fault
					client.Close()
					server.Close()
				})
			}
		}
	})
	return (&url.URL{Scheme: "postgres", User: u.User, Host: l.Addr().String(), Path: u.Path, RawQuery: "sslmode=disable"}).String()
}

// sharedFolder is a folder that pods see, too, under the same path: not below /tmp, where each pod has its own.
func sharedFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "surmise-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // what is left lies where it is cleaned up
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func (i installation) write(t *testing.T, name string, text []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(i.dir, name), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (i installation) read(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(i.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func (i installation) secret(t *testing.T, name string, data map[string][]byte) {
	t.Helper()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}
	if _, err := i.Client.CoreV1().Secrets(namespace).Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// volume is the one that the claim for artifacts will get.
func (i installation) volume(t *testing.T) {
	t.Helper()
	path := filepath.Join(i.dir, "artifacts")
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	volume := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "artifacts"}, Spec: corev1.PersistentVolumeSpec{
		Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("100Gi")}, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany},
		PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path}},
	}}
	if _, err := i.Client.CoreV1().PersistentVolumes().Create(t.Context(), volume, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// shrink makes three workers of one CPU the most there are, which leave after ten seconds without work.
func (i installation) shrink(t *testing.T, m *corev1.ConfigMap) {
	t.Helper()
	var config map[string]any
	if err := json.Unmarshal([]byte(m.Data[configFile]), &config); err != nil {
		t.Fatal(err)
	}
	config["pools"] = []map[string]any{{"name": "cpu", "cpus": 1, "memory": "512MiB", "max": 3, "data_roots": []string{i.dir}}}
	config["idle"], config["interval"] = "10s", "1s"
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	m.Data[configFile] = string(text)
}

// A sweep runs to its end on a cluster that starts with nothing, though one worker's pod is killed and another's evicted:
// every child ends once, and when all is done the workers leave.
func TestSweepOnCluster(t *testing.T) {
	coordinator, worker := binary(t, "coordinator"), binary(t, "worker")
	s := startServer(t, map[string][]string{"surmise/coordinator:dev": {coordinator}, "surmise/worker:dev": {worker}})
	i := install(t, s)
	clustertest.Await(t, "the coordinator to be ready", patience, func() (bool, string) {
		d, err := s.Client.AppsV1().Deployments(namespace).Get(t.Context(), "surmise-coordinator", metav1.GetOptions{})
		if err != nil {
			return false, err.Error()
		}
		return d.Status.ReadyReplicas == 1, fmt.Sprintf("%+v", d.Status)
	})

	sweep := map[string]any{
		"train": map[string]any{"data": []string{filepath.Join(i.dir, "clips", "clips")}, "steps": 400, "batch": 4, "log_every": 20, "checkpoint_every": 50, "threads": 1,
			"model": map[string]any{"size": 32, "frames": 8, "dim": 32, "depth": 2, "heads": 1, "pred_dim": 32, "pred_depth": 2, "pred_heads": 1}},
		"parameters": []any{map[string]any{"path": "train.optimizer.learning_rate", "grid": []float64{1e-4, 1e-3, 1e-2}}, map[string]any{"path": "train.seed", "grid": []int{1, 2}}},
	}
	text, err := json.Marshal(sweep)
	if err != nil {
		t.Fatal(err)
	}
	i.write(t, "sweep.json", text)
	name := strings.TrimSpace(i.remote(t, "sweep", "-f", "sweep.json"))

	disturbed := map[string]bool{}
	for _, disturb := range []func(*corev1.Pod){
		func(pod *corev1.Pod) { s.Node.Kill(t, pod) },
		func(pod *corev1.Pod) {
			err := s.Client.PolicyV1().Evictions(namespace).Evict(t.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: namespace}})
			if err != nil {
				t.Fatal(err)
			}
		},
	} {
		pod := i.busyWorker(t, disturbed)
		disturbed[pod.Name] = true
		disturb(pod)
	}

	var table string
	clustertest.Await(t, "the sweep's end", patience, func() (bool, string) {
		table = i.remote(t, "sweep", name)
		return strings.Contains(table, "6 children: 6 SUCCEEDED"), table
	})
	t.Log(table)
	lost, handedBack := i.history(t, table)
	if lost < 1 || handedBack < 1 {
		t.Errorf("%d attempts were lost and %d handed back, though one pod was killed and one evicted", lost, handedBack)
	}
	clustertest.Await(t, "the workers to leave", patience, func() (bool, string) {
		jobs, err := s.Client.BatchV1().Jobs(namespace).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return false, err.Error()
		}
		alive := slices.DeleteFunc(jobs.Items, func(j batchv1.Job) bool { return j.Status.Active == 0 })
		return len(alive) == 0, fmt.Sprint(len(alive), " Jobs are active")
	})
}

// busyWorker is a pod, not among these, whose worker has a job with a checkpoint.
func (i installation) busyWorker(t *testing.T, but map[string]bool) (found *corev1.Pod) {
	t.Helper()
	clustertest.Await(t, "a worker at work", patience, func() (bool, string) {
		var state strings.Builder
		for job := range strings.Lines(i.remote(t, "jobs", "--json")) {
			var j struct {
				State, Worker string
				Progress      struct{ Step json.Number }
			}
			if err := json.Unmarshal([]byte(job), &j); err != nil {
				t.Fatalf("%v: %s", err, job)
			}
			fmt.Fprintln(&state, j)
			if step, _ := j.Progress.Step.Int64(); j.State != "RUNNING" || step < 1 { // no step is 0
				continue
			}
			pods, err := i.Client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{})
			if err != nil {
				return false, err.Error()
			}
			for _, pod := range pods.Items {
				if strings.HasPrefix(pod.Name, j.Worker+"-") && pod.Status.Phase == corev1.PodRunning && pod.DeletionTimestamp == nil && !but[pod.Name] {
					found = &pod
					return true, ""
				}
			}
		}
		return false, state.String()
	})
	return found
}

// history counts, over the children in a table, the attempts that were lost and those that were handed back, and fails the
// test if one ended more than once.
func (i installation) history(t *testing.T, table string) (lost, handedBack int) {
	t.Helper()
	for line := range strings.Lines(table) {
		name, _, _ := strings.Cut(line, " ")
		if !strings.HasPrefix(name, "jobs/") {
			continue
		}
		ended := 0
		for event := range strings.Lines(i.remote(t, "watch", "--json", name)) {
			var e struct {
				Type string
				Job  struct{ Reason string }
			}
			if err := json.Unmarshal([]byte(event), &e); err != nil {
				t.Fatalf("%v: %s", err, event)
			}
			switch {
			case e.Type == "JOB_ENDED":
				ended++
			case strings.Contains(e.Job.Reason, "was lost"):
				lost++
			case e.Type == "JOB_REQUEUED":
				handedBack++
			}
		}
		if ended != 1 {
			t.Errorf("%s ended %d times", name, ended)
		}
	}
	return lost, handedBack
}
