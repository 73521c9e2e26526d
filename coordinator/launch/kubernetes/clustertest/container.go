package clustertest

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// prepare makes the pod's folders and the command of its container. The command is to be started once.
func (r *podRun) prepare(ctx context.Context) (cmd *exec.Cmd, log string, err error) {
	spec := r.pod.Spec
	if len(spec.Containers) != 1 || len(spec.InitContainers) > 0 {
		return nil, "", fmt.Errorf("this kubelet runs pods of one container, not of %d and %d", len(spec.InitContainers), len(spec.Containers))
	}
	c := spec.Containers[0]
	entry, ok := r.kubelet.images[c.Image]
	if !ok {
		return nil, "", &waitError{"ErrImagePull", fmt.Errorf("image %q: not found", c.Image)}
	}
	dir := filepath.Join(r.kubelet.dir, string(r.pod.UID))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, "", err
	}
	volumes := map[string]string{} // name to folder
	for _, v := range spec.Volumes {
		if volumes[v.Name], err = r.volume(ctx, dir, v); err != nil {
			return nil, "", &waitError{"ContainerCreating", fmt.Errorf("volume %s: %w", v.Name, err)}
		}
	}
	env, err := r.environment(ctx, c)
	if err != nil {
		return nil, "", &waitError{"CreateContainerConfigError", err}
	}
	hosts, err := r.hosts(ctx, dir)
	if err != nil {
		return nil, "", err
	}
	if len(c.Command) > 0 {
		entry = c.Command
	}
	var line []string
	for _, word := range slices.Concat(entry, c.Args) {
		line = append(line, expand(word, env))
	}
	cmd = exec.CommandContext(context.WithoutCancel(ctx), "unshare", slices.Concat([]string{"--mount", "--", "sh", "-euc", containerScript, "container", dir, hosts, r.user(c), fmt.Sprint(readOnly(c))},
		mounts(c, volumes), []string{"--"}, line)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=" + r.pod.Name}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		cmd.Env = append(cmd.Env, name+"="+env[name])
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	return cmd, filepath.Join(dir, "log"), nil
}

// containerScript makes what the container sees, in a mount namespace of its own: this machine's files with a layer of the
// container's above, its volumes, and no more. Arguments: folder, hosts file, user:group, whether the root is read-only,
// pairs of folder and mount path, --, command.
const containerScript = `
dir=$1 hosts=$2 user=$3 readonly=$4
shift 4
mkdir -p "$dir/layer"
mount -t tmpfs layer "$dir/layer"
mkdir "$dir/layer/up" "$dir/layer/work" "$dir/layer/root"
root=$dir/layer/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$dir/layer/up,workdir=$dir/layer/work" "$root"
cp "$hosts" "$root/etc/hosts"
mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"
while [ "$1" != -- ]; do
	mkdir -p "$root$2"
	mount --bind "$1" "$root$2"
	shift 2
done
shift
if [ "$readonly" = true ]; then
	mount -o remount,ro "$root"
fi
exec chroot "$root" setpriv --reuid "${user%:*}" --regid "${user#*:}" --clear-groups --no-new-privs --inh-caps=-all -- "$@"
`

func readOnly(c corev1.Container) bool {
	return c.SecurityContext != nil && c.SecurityContext.ReadOnlyRootFilesystem != nil && *c.SecurityContext.ReadOnlyRootFilesystem
}

// user is user and group of the container, root's where the pod says nothing.
func (r *podRun) user(c corev1.Container) string {
	user, group := int64(0), int64(0)
	if s := r.pod.Spec.SecurityContext; s != nil {
		if s.RunAsUser != nil {
			user = *s.RunAsUser
		}
		if s.RunAsGroup != nil {
			group = *s.RunAsGroup
		}
	}
	if s := c.SecurityContext; s != nil && s.RunAsUser != nil {
		user = *s.RunAsUser
	}
	return fmt.Sprintf("%d:%d", user, group)
}

// mounts are pairs of folder and path.
func mounts(c corev1.Container, volumes map[string]string) (pairs []string) {
	for _, m := range c.VolumeMounts {
		path := m.MountPath
		if rest, ok := strings.CutPrefix(path, "/var/run/"); ok { // a link, which would lead out of the container's root
			path = "/run/" + rest
		}
		pairs = append(pairs, filepath.Join(volumes[m.Name], m.SubPath), path)
	}
	return pairs
}

// environment is what the container is given.
func (r *podRun) environment(ctx context.Context, c corev1.Container) (map[string]string, error) {
	host, port, _ := strings.Cut(r.kubelet.server, ":")
	env := map[string]string{"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
	for _, from := range c.EnvFrom {
		var data map[string][]byte
		var err error
		switch {
		case from.SecretRef != nil:
			data, err = r.secret(ctx, from.SecretRef.Name, from.SecretRef.Optional)
		case from.ConfigMapRef != nil:
			data, err = r.configMap(ctx, from.ConfigMapRef.Name, from.ConfigMapRef.Optional)
		}
		if err != nil {
			return nil, err
		}
		for name, value := range data {
			env[from.Prefix+name] = string(value)
		}
	}
	for _, v := range c.Env {
		value, err := r.value(ctx, v, env)
		if err != nil {
			return nil, fmt.Errorf("env %s: %w", v.Name, err)
		}
		env[v.Name] = value
	}
	return env, nil
}

func (r *podRun) value(ctx context.Context, v corev1.EnvVar, env map[string]string) (string, error) {
	from := v.ValueFrom
	var data map[string][]byte
	var err error
	var key string
	switch {
	case from == nil:
		return expand(v.Value, env), nil
	case from.FieldRef != nil:
		return r.field(from.FieldRef.FieldPath)
	case from.SecretKeyRef != nil:
		key = from.SecretKeyRef.Key
		data, err = r.secret(ctx, from.SecretKeyRef.Name, from.SecretKeyRef.Optional)
	case from.ConfigMapKeyRef != nil:
		key = from.ConfigMapKeyRef.Key
		data, err = r.configMap(ctx, from.ConfigMapKeyRef.Name, from.ConfigMapKeyRef.Optional)
	default:
		return "", fmt.Errorf("this kubelet does not know the source %v", from)
	}
	if err != nil {
		return "", err
	}
	value, ok := data[key]
	if !ok {
		return "", fmt.Errorf("couldn't find key %s", key)
	}
	return string(value), nil
}

// field is a field of the pod, as the downward API names it.
func (r *podRun) field(path string) (string, error) {
	for prefix, values := range map[string]map[string]string{"metadata.annotations": r.pod.Annotations, "metadata.labels": r.pod.Labels} {
		if key, ok := strings.CutPrefix(path, prefix+"['"); ok {
			return values[strings.TrimSuffix(key, "']")], nil
		}
	}
	switch path {
	case "metadata.name":
		return r.pod.Name, nil
	case "metadata.namespace":
		return r.pod.Namespace, nil
	case "status.podIP":
		return r.ip, nil
	case "spec.nodeName":
		return r.kubelet.Name, nil
	}
	return "", fmt.Errorf("this kubelet does not know the field %s", path)
}

func (r *podRun) secret(ctx context.Context, name string, optional *bool) (map[string][]byte, error) {
	s, err := r.kubelet.client.CoreV1().Secrets(r.pod.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		if optional != nil && *optional && apierrors.IsNotFound(err) {
			return nil, nil
		}
		return nil, err
	}
	return s.Data, nil
}

func (r *podRun) configMap(ctx context.Context, name string, optional *bool) (map[string][]byte, error) {
	m, err := r.kubelet.client.CoreV1().ConfigMaps(r.pod.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		if optional != nil && *optional && apierrors.IsNotFound(err) {
			return nil, nil
		}
		return nil, err
	}
	data := maps.Clone(m.BinaryData)
	if data == nil {
		data = map[string][]byte{}
	}
	for name, text := range m.Data {
		data[name] = []byte(text)
	}
	return data, nil
}

// volume makes a volume's folder, or finds it.
func (r *podRun) volume(ctx context.Context, dir string, v corev1.Volume) (string, error) {
	path := filepath.Join(dir, "volumes", v.Name)
	group := -1
	if s := r.pod.Spec.SecurityContext; s != nil && s.FSGroup != nil {
		group = int(*s.FSGroup)
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return "", err
	}
	switch {
	case v.EmptyDir != nil:
		return path, own(path, group)
	case v.ConfigMap != nil:
		data, err := r.configMap(ctx, v.ConfigMap.Name, v.ConfigMap.Optional)
		if err != nil {
			return "", err
		}
		return path, write(path, data, v.ConfigMap.Items)
	case v.Secret != nil:
		data, err := r.secret(ctx, v.Secret.SecretName, v.Secret.Optional)
		if err != nil {
			return "", err
		}
		return path, write(path, data, v.Secret.Items)
	case v.Projected != nil:
		return path, r.project(ctx, path, v.Projected)
	case v.PersistentVolumeClaim != nil:
		claim, err := r.kubelet.client.CoreV1().PersistentVolumeClaims(r.pod.Namespace).Get(ctx, v.PersistentVolumeClaim.ClaimName, metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		volume, err := r.kubelet.client.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		if volume.Spec.HostPath == nil {
			return "", fmt.Errorf("this kubelet does not know the kind of volume %s", volume.Name)
		}
		return volume.Spec.HostPath.Path, own(volume.Spec.HostPath.Path, group)
	}
	return "", fmt.Errorf("this kubelet does not know its kind")
}

// own gives a folder to the pod's group.
func own(path string, group int) error {
	if group < 0 {
		return nil
	}
	if err := os.Chown(path, -1, group); err != nil {
		return err
	}
	return os.Chmod(path, 0o2775)
}

// write writes keys as files, all or the items.
func write(path string, data map[string][]byte, items []corev1.KeyToPath) error {
	if items == nil {
		for key := range data {
			items = append(items, corev1.KeyToPath{Key: key, Path: key})
		}
	}
	for _, item := range items {
		text, ok := data[item.Key]
		if !ok {
			return fmt.Errorf("references non-existent key %s", item.Key)
		}
		if err := os.WriteFile(filepath.Join(path, item.Path), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// project writes what a pod that calls the API server needs: a token, the authority, the namespace.
func (r *podRun) project(ctx context.Context, path string, p *corev1.ProjectedVolumeSource) error {
	for _, s := range p.Sources {
		switch {
		case s.ServiceAccountToken != nil:
			request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: s.ServiceAccountToken.ExpirationSeconds,
				BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: r.pod.Name, UID: r.pod.UID}}}
			token, err := r.kubelet.client.CoreV1().ServiceAccounts(r.pod.Namespace).CreateToken(ctx, r.pod.Spec.ServiceAccountName, request, metav1.CreateOptions{})
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(path, s.ServiceAccountToken.Path), []byte(token.Status.Token), 0o644); err != nil {
				return err
			}
		case s.ConfigMap != nil:
			data, err := r.configMap(ctx, s.ConfigMap.Name, s.ConfigMap.Optional)
			if err != nil {
				return err
			}
			if err := write(path, data, s.ConfigMap.Items); err != nil {
				return err
			}
		case s.DownwardAPI != nil:
			for _, item := range s.DownwardAPI.Items {
				value, err := r.field(item.FieldRef.FieldPath)
				if err != nil {
					return err
				}
				if err := os.WriteFile(filepath.Join(path, item.Path), []byte(value), 0o644); err != nil {
					return err
				}
			}
		default:
			return fmt.Errorf("this kubelet does not know the source %v", s)
		}
	}
	return nil
}

// hosts writes the names that the pod finds: each service of its namespace, at an address of a pod of it. There is no proxy,
// so a service's port has to be its pods'.
func (r *podRun) hosts(ctx context.Context, dir string) (string, error) {
	text := "127.0.0.1 localhost\n"
	services, err := r.kubelet.client.CoreV1().Services(r.pod.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	for _, s := range services.Items {
		text += fmt.Sprintf("127.0.0.1 %s %s.%s.svc\n", s.Name, s.Name, s.Namespace)
	}
	path := filepath.Join(dir, "hosts")
	return path, os.WriteFile(path, []byte(text), 0o644)
}
