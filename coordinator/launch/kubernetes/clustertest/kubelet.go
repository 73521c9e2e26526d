package clustertest

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// Kubelet is a node whose pods are processes.
type Kubelet struct {
	Name   string
	client kubernetes.Interface
	images map[string][]string
	dir    string // of the pods
	server string // host:port of the API server

	running sync.WaitGroup // one for each pod, one for the heartbeat

	mu   sync.Mutex
	pods map[types.UID]*podRun // guarded by mu
	next byte                  // of the addresses of pods; guarded by mu
}

// Capacity of the node: what is asked for is not held, so that it may be more than the machine has.
const (
	nodeCPUs   = 64
	nodeMemory = "256Gi"
	nodePods   = 200
)

// rootCA is the ConfigMap with the cluster's authority that every namespace gets.
const rootCA = "kube-root-ca.crt"

const heartbeat = 5 * time.Second

func (c *Cluster) startKubelet(t *testing.T, name string, images map[string][]string) *Kubelet {
	t.Helper()
	config := c.config(t, "system:node:"+name, "system:nodes")
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	k := &Kubelet{Name: name, client: client, images: images, dir: c.path("pods"), server: c.url[len("https://"):], pods: map[types.UID]*podRun{}}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	t.Cleanup(func() {
		cancel()
		k.running.Wait()
		if logs, _ := filepath.Glob(filepath.Join(k.dir, "*", "log")); t.Failed() { // the only error is that of a bad pattern
			for _, path := range logs {
				t.Logf("the end of %s:\n%s", path, tail(path, 2<<10))
			}
		}
	})
	k.register(ctx, t)
	k.running.Go(func() { k.beat(ctx) })
	watch := cache.NewListWatchFromClient(client.CoreV1().RESTClient(), "pods", metav1.NamespaceAll, fields.OneTermEqualSelector("spec.nodeName", name))
	_, controller := cache.NewInformerWithOptions(cache.InformerOptions{ListerWatcher: watch, ObjectType: &corev1.Pod{}, Handler: cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { k.saw(ctx, o.(*corev1.Pod)) },
		UpdateFunc: func(_, o any) { k.saw(ctx, o.(*corev1.Pod)) },
		DeleteFunc: func(o any) {
			if pod, ok := o.(*corev1.Pod); ok { // else its deletion was missed, and it has none of ours
				k.gone(pod)
			}
		},
	}})
	k.running.Go(func() { controller.RunWithContext(ctx) })
	Await(t, "node "+name+" to take pods", startPatience, func() (bool, string) {
		node, err := c.Client.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return false, err.Error()
		}
		return len(node.Spec.Taints) == 0, fmt.Sprint("tainted ", node.Spec.Taints)
	})
	return k
}

// register makes the node.
func (k *Kubelet) register(ctx context.Context, t *testing.T) {
	t.Helper()
	nodes := k.client.CoreV1().Nodes()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: k.Name, Labels: map[string]string{corev1.LabelHostname: k.Name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64"}}}
	node, err := nodes.Create(ctx, node, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	node.Status = k.status()
	if _, err := nodes.UpdateStatus(ctx, node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func (k *Kubelet) status() corev1.NodeStatus {
	has := corev1.ResourceList{
		corev1.ResourceCPU: *resource.NewQuantity(nodeCPUs, resource.DecimalSI), corev1.ResourceMemory: resource.MustParse(nodeMemory),
		corev1.ResourcePods: *resource.NewQuantity(nodePods, resource.DecimalSI), corev1.ResourceEphemeralStorage: resource.MustParse("500Gi"),
	}
	now := metav1.Now()
	return corev1.NodeStatus{
		Capacity: has, Allocatable: has,
		Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}},
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", LastHeartbeatTime: now, LastTransitionTime: now}},
		NodeInfo:   corev1.NodeSystemInfo{KubeletVersion: "v1.36.3", OperatingSystem: "linux", Architecture: "amd64"},
	}
}

// beat renews the node's lease until ctx ends.
func (k *Kubelet) beat(ctx context.Context) {
	leases := k.client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	for {
		now := metav1.NewMicroTime(time.Now())
		lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: k.Name, Namespace: corev1.NamespaceNodeLease},
			Spec: coordinationv1.LeaseSpec{HolderIdentity: new(k.Name), LeaseDurationSeconds: new(int32(40)), RenewTime: &now}}
		_, err := leases.Create(ctx, lease, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			if old, err := leases.Get(ctx, k.Name, metav1.GetOptions{}); err == nil {
				old.Spec = lease.Spec
				_, _ = leases.Update(ctx, old, metav1.UpdateOptions{}) // the next beat tries again
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// saw takes a pod of this node as it is now.
func (k *Kubelet) saw(ctx context.Context, pod *corev1.Pod) {
	k.mu.Lock()
	defer k.mu.Unlock()
	run := k.pods[pod.UID]
	if run == nil {
		if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			return
		}
		k.next++
		run = &podRun{kubelet: k, pod: pod.DeepCopy(), ip: net.IPv4(127, 77, 0, k.next).String(), stop: make(chan struct{})}
		k.pods[pod.UID] = run
		k.running.Go(func() { run.live(ctx) })
	}
	if pod.DeletionTimestamp != nil {
		run.end(time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second)
	}
}

// gone forgets a pod, whose processes end at once if they still run.
func (k *Kubelet) gone(pod *corev1.Pod) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if run := k.pods[pod.UID]; run != nil {
		run.end(0)
		delete(k.pods, pod.UID)
	}
}

// Kill kills the processes of a pod, as the kernel does when memory runs out.
func (k *Kubelet) Kill(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	k.mu.Lock()
	run := k.pods[pod.UID]
	k.mu.Unlock()
	if run == nil || !run.kill() {
		t.Fatalf("pod %s runs nothing", pod.Name)
	}
}

func namespaceObject(name string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
}
