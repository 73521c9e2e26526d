package kubernetes

import (
	"fmt"
	"os"
	"strings"

	batchclient "k8s.io/client-go/kubernetes/typed/batch/v1"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// namespaceFile tells a pod its namespace.
const namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

// Connect makes the clients of a cluster: the one of the kubeconfig file, with its current context or the one named, or,
// without a file, the one that this process is a pod of. namespace "" is the context's, or the pod's. Credentials that
// are renewed in the pod are taken up.
func Connect(kubeconfig, context, namespace string) (Cluster, error) {
	var config *rest.Config
	var err error
	if kubeconfig == "" {
		if config, err = rest.InClusterConfig(); err != nil {
			return Cluster{}, fmt.Errorf("finding the cluster that this process is a pod of: %w; outside of one give a kubeconfig", err)
		}
		if namespace == "" {
			text, err := os.ReadFile(namespaceFile)
			if err != nil {
				return Cluster{}, fmt.Errorf("finding the pod's namespace: %w", err)
			}
			namespace = strings.TrimSpace(string(text))
		}
	} else {
		file := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
			&clientcmd.ClientConfigLoadingRules{ExplicitPath: kubeconfig}, &clientcmd.ConfigOverrides{CurrentContext: context})
		if config, err = file.ClientConfig(); err != nil {
			return Cluster{}, fmt.Errorf("kubeconfig %s: %w", kubeconfig, err)
		}
		if namespace == "" {
			if namespace, _, err = file.Namespace(); err != nil {
				return Cluster{}, fmt.Errorf("kubeconfig %s: %w", kubeconfig, err)
			}
		}
	}
	return ConnectTo(config, namespace)
}

// Calls a second to the API server, far above what a reconciler makes.
const callsPerSecond = 20

// ConnectTo makes the clients of a cluster whose configuration is known.
func ConnectTo(config *rest.Config, namespace string) (Cluster, error) {
	config = rest.CopyConfig(config)
	config.QPS, config.Burst = callsPerSecond, 2*callsPerSecond
	config.UserAgent = "surmise-coordinator"
	batch, err := batchclient.NewForConfig(config)
	if err != nil {
		return Cluster{}, fmt.Errorf("making a client of %s: %w", config.Host, err)
	}
	core, err := coreclient.NewForConfig(config)
	if err != nil {
		return Cluster{}, fmt.Errorf("making a client of %s: %w", config.Host, err)
	}
	return Cluster{Batch: batch, Core: core, Namespace: namespace}, nil
}
