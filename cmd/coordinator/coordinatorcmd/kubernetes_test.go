package coordinatorcmd

import (
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/surmise-ml/surmise/proto/externalscaler"
)

func TestLauncherSettingsForKubernetes(t *testing.T) {
	templates := t.TempDir()
	if err := os.WriteFile(filepath.Join(templates, "cpu.yaml"), []byte("apiVersion: v1\nkind: PodTemplate\ntemplate: {spec: {containers: [{name: worker, image: w}]}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	with := func(kubernetes string) string {
		return `"kubernetes":{"templates":"` + templates + `"` + kubernetes + `}`
	}
	for text, want := range map[string]string{
		`{}`: "kubernetes.templates: is missing",
		`{"kubernetes":{"templates":"/nothere"}}`:                                      "/nothere: no such file",
		`{"kubernetes":{"template":"x"}}`:                                              `unknown field "template"`,
		`{"worker":{"args":["--tls"]},` + with("") + `}`:                               "worker and coordinator: the pod templates say it",
		`{"coordinator":"a:1",` + with("") + `}`:                                       "worker and coordinator: the pod templates say it",
		`{` + with(`,"keep":"-1s"`) + `}`:                                              "kubernetes.keep -1s",
		`{"pools":[{"name":"fast","max":1,"gpus":1}],` + with("") + `}`:                "no pod template fast.yaml or gpu.yaml for pool fast",
		`{` + with(`,"kubeconfig":"/nothere"`) + `}`:                                   "kubeconfig /nothere",
		`{"pools":[{"name":"cpu","max":0}],` + with(`,"kubeconfig":"/no"`) + `}`:       "kubeconfig /no",
		`{"prefix":"-",` + with(`,"kubeconfig":"`+kubeconfig(t)+`"`) + `}`:             `prefix "-"`,
		`{"pools":[{"name":"cpu"}],` + with(`,"kubeconfig":"`+kubeconfig(t)+`"`) + `}`: "pools[0]: max 0",
	} {
		path := settings(t, text)
		_, err := LauncherOptions{Engine: "kubernetes", Config: path}.open(t.TempDir(), somewhere, slog.Default())
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got %v, want %q and the file's name", text, err, want)
		}
	}
	whole := settings(t, `{`+with(`,"kubeconfig":"`+kubeconfig(t)+`","keep":"2h","queue":"q","context":"lab"`)+`}`)
	if _, err := (LauncherOptions{Engine: "kubernetes", Config: whole}).open(t.TempDir(), somewhere, slog.Default()); err != nil {
		t.Error(err)
	}
	if err := CheckKubernetes(whole); err != nil {
		t.Error(err)
	}
}

// kubeconfig is a file for a server that nobody asks.
func kubeconfig(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config")
	text := "apiVersion: v1\nkind: Config\nclusters: [{name: lab, cluster: {server: 'https://127.0.0.1:1'}}]\ncontexts: [{name: lab, context: {cluster: lab, namespace: research}}]\ncurrent-context: lab\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestServeKEDA(t *testing.T) {
	var config net.ListenConfig
	l, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if _, err := listenForKEDA(t.Context(), address); err == nil || !strings.Contains(err.Error(), "--keda-addr") {
		t.Errorf("an address in use: %v", err)
	}
	l.Close()
	if l, err = listenForKEDA(t.Context(), address); err != nil {
		t.Fatal(err)
	}
	stop := serveKEDA(t.Context(), l, noJobs{}, slog.Default())
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	got, err := externalscaler.NewExternalScalerClient(conn).IsActive(t.Context(), &externalscaler.ScaledObjectRef{Name: "a"}, grpc.WaitForReady(true))
	if err != nil || got.Result {
		t.Errorf("got %v, %v", got, err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}
