package deploy

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/surmise-ml/surmise/cmd/coordinator/coordinatorcmd"
	"github.com/surmise-ml/surmise/cmd/daemon"
	"github.com/surmise-ml/surmise/cmd/worker/workercmd"
)

// start is how a program is started somewhere.
type start struct {
	where   string
	program string // "coordinator" or "worker"
	args    []string
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func unmarshal(t *testing.T, path, text string, into any) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// program is what an image or a Dockerfile is of.
func program(name string) string {
	if strings.Contains(name, "coordinator") {
		return "coordinator"
	}
	return "worker"
}

var cmdLine = regexp.MustCompile(`(?m)^CMD (\[.*\])$`)

var execStart = regexp.MustCompile(`(?m)^ExecStart=(.*)$`)

// starts are all command lines in images, compose.yaml, manifests and systemd's units.
func starts(t *testing.T) (all []start) {
	t.Helper()
	glob := func(pattern string) []string {
		paths, err := filepath.Glob(pattern)
		if err != nil || len(paths) == 0 {
			t.Fatalf("%s: %v, %v", pattern, paths, err)
		}
		return paths
	}
	for _, path := range glob("docker/*.Dockerfile") {
		found := cmdLine.FindStringSubmatch(read(t, path))
		if found == nil {
			t.Fatalf("%s: no CMD", path)
		}
		s := start{where: path, program: program(filepath.Base(path))}
		if err := json.Unmarshal([]byte(found[1]), &s.args); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		all = append(all, s)
	}

	var compose struct {
		Services map[string]struct {
			Image   string
			Build   any
			Command []string
		}
	}
	unmarshal(t, "compose.yaml", read(t, "docker/compose.yaml"), &compose)
	for name, s := range compose.Services {
		if s.Build != nil {
			all = append(all, start{"compose.yaml, " + name, program(s.Image), s.Command})
		}
	}

	for document := range strings.SplitSeq(read(t, "kubernetes/base/coordinator.yaml"), "\n---\n") {
		var d appsv1.Deployment
		unmarshal(t, "base/coordinator.yaml", document, &d)
		for _, c := range d.Spec.Template.Spec.Containers {
			all = append(all, start{"Deployment " + d.Name, program(c.Image), c.Args})
		}
	}
	for _, path := range glob("kubernetes/overlays/*/?pu.yaml") {
		var p corev1.PodTemplate
		unmarshal(t, path, read(t, path), &p)
		for _, c := range p.Template.Spec.Containers {
			all = append(all, start{path, program(c.Image), c.Args})
		}
	}
	for _, path := range glob("systemd/*.service") {
		found := execStart.FindStringSubmatch(read(t, path))
		if found == nil {
			t.Fatalf("%s: no ExecStart", path)
		}
		words := strings.Fields(found[1])
		all = append(all, start{path, program(words[0]), words[1:]})
	}
	return all
}

// Every flag that is used somewhere is one of the program's, with a value that it takes.
func TestFlagsExist(t *testing.T) {
	all := starts(t)
	if len(all) != 11 {
		t.Errorf("%d command lines, want 3 of images, 3 of compose.yaml, 3 of manifests and 2 of systemd", len(all))
	}
	for _, s := range all {
		if err := parse(s); err != nil {
			t.Errorf("%s: %v", s.where, err)
		}
	}
	if err := parse(start{program: "worker", args: []string{"--coordinators=x"}}); err == nil {
		t.Error("an unknown flag is accepted")
	}
}

func parse(s start) error {
	var cmd *cobra.Command
	if s.program == "coordinator" {
		cmd = daemon.Alone(coordinatorcmd.Command(), "")
	} else {
		cmd = daemon.Alone(workercmd.Command(""), "")
	}
	cmd.SetErr(io.Discard)
	if err := cmd.ParseFlags(s.args); err != nil {
		return err
	}
	return cmd.ValidateArgs(cmd.Flags().Args())
}
