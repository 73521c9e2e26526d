// Package kubernetes holds the manifests to what they promise. What a real API server says of them is in
// cluster_test.go.
package kubernetes

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/resmap"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"github.com/surmise-ml/surmise/cmd/coordinator/coordinatorcmd"
	launcher "github.com/surmise-ml/surmise/coordinator/launch/kubernetes"
)

var overlays = []string{"overlays/cpu", "overlays/gpu"}

// secrets are what an installation makes itself; docs/guides/cluster-kubernetes.md has the commands.
var secrets = []string{"surmise-postgres", "surmise-tls", "surmise-tokens", "surmise-worker-token", "surmise-s3"}

// render is what `kubectl apply -k` sends.
func render(t *testing.T, overlay string) resmap.ResMap {
	t.Helper()
	all, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), overlay)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// strict refuses fields that Kubernetes does not know, and those that come twice.
var strict = serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()

// decode renders an overlay and decodes all of it.
func decode(t *testing.T, overlay string) (objects []runtime.Object) {
	t.Helper()
	for _, r := range render(t, overlay).Resources() {
		text, err := r.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		object, _, err := strict.Decode(text, nil, nil)
		if err != nil {
			t.Errorf("%s: %v", r.CurId(), err)
			continue
		}
		objects = append(objects, object)
	}
	return objects
}

func only[T any](objects []runtime.Object) (out []T) {
	for _, o := range objects {
		if v, ok := o.(T); ok {
			out = append(out, v)
		}
	}
	return out
}

// workerPods are the pods that the coordinator will start, as it reads them from the mounted ConfigMap.
func workerPods(t *testing.T, objects []runtime.Object) map[string]corev1.PodTemplateSpec {
	t.Helper()
	dir := t.TempDir()
	maps := only[*corev1.ConfigMap](objects)
	if len(maps) != 1 {
		t.Fatalf("%d ConfigMaps", len(maps))
	}
	for name, text := range maps[0].Data {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	templates, err := launcher.ReadTemplates(dir)
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, configFile)
	moved := strings.Replace(maps[0].Data[configFile], `"/etc/surmise/launch"`, `"`+dir+`"`, 1)
	if err := os.WriteFile(config, []byte(moved), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := coordinatorcmd.CheckKubernetes(config); err != nil {
		t.Fatal(err)
	}
	return templates
}

func TestStrict(t *testing.T) {
	if _, _, err := strict.Decode([]byte("apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {port: 1}\n"), nil, nil); err == nil {
		t.Fatal("an unknown field is accepted")
	}
	for _, overlay := range overlays {
		objects := decode(t, overlay)
		pods := workerPods(t, objects)
		want := map[string][]string{"overlays/cpu": {"cpu"}, "overlays/gpu": {"cpu", "gpu"}}[overlay]
		if got := slices.Sorted(maps.Keys(pods)); len(objects) != 13 || !slices.Equal(got, want) {
			t.Errorf("%s: %d objects, templates %v", overlay, len(objects), got)
		}
		for _, o := range objects {
			accessor := o.(interface {
				GetNamespace() string
				GetName() string
			})
			if _, isNamespace := o.(*corev1.Namespace); !isNamespace && accessor.GetNamespace() != "surmise" {
				t.Errorf("%s: %T %s is in namespace %q", overlay, o, accessor.GetName(), accessor.GetNamespace())
			}
		}
	}
}

// Every pod runs as nobody, writes where it must, and says what it needs.
func TestPods(t *testing.T) {
	for _, overlay := range overlays {
		objects := decode(t, overlay)
		pods := workerPods(t, objects)
		for _, d := range only[*appsv1.Deployment](objects) {
			pods[d.Name] = d.Spec.Template
			for _, c := range d.Spec.Template.Spec.Containers {
				if c.ReadinessProbe == nil || c.StartupProbe == nil {
					t.Errorf("%s, %s: a probe is missing", d.Name, c.Name)
				}
			}
		}
		var known []string // volumes and accounts that are there
		for _, m := range only[*corev1.ConfigMap](objects) {
			known = append(known, "configmap "+m.Name)
		}
		for _, m := range only[*corev1.PersistentVolumeClaim](objects) {
			known = append(known, "claim "+m.Name)
		}
		for _, m := range only[*corev1.ServiceAccount](objects) {
			known = append(known, "account "+m.Name)
		}
		for name, pod := range pods {
			for _, problem := range slices.Concat(insecure(pod.Spec), missing(pod.Spec, known)) {
				t.Errorf("%s, %s: %s", overlay, name, problem)
			}
		}
	}
}

func insecure(spec corev1.PodSpec) (problems []string) {
	wrong := func(bad bool, what string) {
		if bad {
			problems = append(problems, what)
		}
	}
	s := spec.SecurityContext
	wrong(s == nil || s.RunAsNonRoot == nil || !*s.RunAsNonRoot || *s.RunAsUser == 0, "may run as root")
	wrong(s == nil || s.SeccompProfile == nil || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault, "no seccomp profile")
	wrong(spec.HostNetwork || spec.HostPID || spec.HostIPC, "sees the host")
	wrong(spec.TerminationGracePeriodSeconds == nil, "no grace period")
	for _, c := range spec.Containers {
		s := c.SecurityContext
		wrong(s == nil || !*s.ReadOnlyRootFilesystem, c.Name+": may write to its image")
		wrong(s == nil || *s.AllowPrivilegeEscalation, c.Name+": may get more rights")
		wrong(s == nil || s.Capabilities == nil || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}), c.Name+": has capabilities")
		wrong(c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero(), c.Name+": does not say what it needs")
		wrong(c.Resources.Limits.Memory().IsZero(), c.Name+": may take all memory")
		wrong(c.LivenessProbe == nil, c.Name+": no liveness probe")
	}
	return problems
}

// missing is what a pod names and nobody makes.
func missing(spec corev1.PodSpec, known []string) (problems []string) {
	var names []string
	names = append(names, "account "+spec.ServiceAccountName)
	secret := func(name string) {
		if !slices.Contains(secrets, name) {
			problems = append(problems, "secret "+name)
		}
	}
	for _, v := range spec.Volumes {
		switch {
		case v.ConfigMap != nil:
			names = append(names, "configmap "+v.ConfigMap.Name)
		case v.PersistentVolumeClaim != nil:
			names = append(names, "claim "+v.PersistentVolumeClaim.ClaimName)
		case v.Secret != nil:
			secret(v.Secret.SecretName)
		case v.EmptyDir == nil:
			problems = append(problems, fmt.Sprintf("volume %s is of another kind", v.Name))
		}
	}
	for _, c := range spec.Containers {
		for _, m := range c.VolumeMounts {
			if !slices.ContainsFunc(spec.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name }) {
				problems = append(problems, "volume "+m.Name)
			}
		}
		for _, e := range c.Env {
			if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
				secret(e.ValueFrom.SecretKeyRef.Name)
			}
		}
		for _, e := range c.EnvFrom {
			secret(e.SecretRef.Name)
		}
	}
	for _, name := range names {
		if !slices.Contains(known, name) {
			problems = append(problems, name)
		}
	}
	return problems
}

// The coordinator may start workers in its namespace, and nothing else; a worker may nothing.
func TestRights(t *testing.T) {
	for _, overlay := range overlays {
		objects := decode(t, overlay)
		if n := len(only[*rbacv1.ClusterRole](objects)) + len(only[*rbacv1.ClusterRoleBinding](objects)); n > 0 {
			t.Errorf("%s: %d rights in the whole cluster", overlay, n)
		}
		roles, bindings := only[*rbacv1.Role](objects), only[*rbacv1.RoleBinding](objects)
		if len(roles) != 1 || len(bindings) != 1 {
			t.Fatalf("%s: %d roles, %d bindings", overlay, len(roles), len(bindings))
		}
		var rights []string
		for _, rule := range roles[0].Rules {
			for _, r := range rule.Resources {
				for _, v := range rule.Verbs {
					rights = append(rights, strings.Join(rule.APIGroups, ",")+"/"+r+" "+v)
				}
			}
		}
		slices.Sort(rights)
		if want := []string{"/events list", "/pods list", "batch/jobs create", "batch/jobs delete", "batch/jobs get", "batch/jobs list"}; !slices.Equal(rights, want) {
			t.Errorf("%s: rights %v, want %v", overlay, rights, want)
		}
		if s := bindings[0].Subjects; len(s) != 1 || s[0].Name != "surmise-coordinator" || s[0].Namespace != "surmise" {
			t.Errorf("%s: bound to %v", overlay, s)
		}
		for _, a := range only[*corev1.ServiceAccount](objects) {
			if a.AutomountServiceAccountToken == nil || *a.AutomountServiceAccountToken {
				t.Errorf("%s: every pod of %s gets its token", overlay, a.Name)
			}
		}
		for name, pod := range workerPods(t, objects) {
			if mount := pod.Spec.AutomountServiceAccountToken; mount == nil || *mount || pod.Spec.ServiceAccountName == "surmise-coordinator" {
				t.Errorf("%s: worker %s may call the API server", overlay, name)
			}
		}
		if n := len(only[*corev1.Secret](objects)); n > 0 {
			t.Errorf("%s: %d secrets are in the manifests", overlay, n)
		}
	}
}

// Every pod is under a policy that lets through only what is named.
func TestNetworkPolicies(t *testing.T) {
	for _, overlay := range overlays {
		objects := decode(t, overlay)
		policies := only[*networkingv1.NetworkPolicy](objects)
		pods := workerPods(t, objects)
		for _, d := range only[*appsv1.Deployment](objects) {
			pods[d.Name] = d.Spec.Template
		}
		for name, pod := range pods {
			if pod.Labels["app.kubernetes.io/part-of"] != "surmise" {
				t.Errorf("%s, %s: no policy is for it", overlay, name)
			}
			ports := map[int32]bool{}
			for _, p := range policies {
				if !slices.Equal(p.Spec.PolicyTypes, []networkingv1.PolicyType{"Ingress", "Egress"}) {
					t.Errorf("%s: %s is for %v only", overlay, p.Name, p.Spec.PolicyTypes)
				}
				if p.Spec.PodSelector.MatchLabels["app.kubernetes.io/name"] != pod.Labels["app.kubernetes.io/name"] {
					continue
				}
				for _, rule := range p.Spec.Ingress {
					if len(rule.From) == 0 {
						t.Errorf("%s: %s lets everybody in", overlay, p.Name)
					}
					for _, port := range rule.Ports {
						ports[port.Port.IntVal] = true
					}
				}
			}
			for _, c := range pod.Spec.Containers {
				for _, port := range c.Ports {
					if !ports[port.ContainerPort] {
						t.Errorf("%s, %s: nobody may reach port %d", overlay, name, port.ContainerPort)
					}
				}
			}
		}
	}
}
