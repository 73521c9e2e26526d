// Package docker holds the Dockerfiles and compose.yaml to what can be known without an engine: what they name is there,
// pinned, and nobody is root. That the programs take the flags is checked in package deploy.
package docker

import (
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

const root = "../.."

var dockerfiles = []string{"coordinator.Dockerfile", "worker.Dockerfile", "worker-gpu.Dockerfile"}

// instruction is a line of a Dockerfile, with what was continued joined.
type instruction struct {
	name string
	args []string // fields of the rest
}

func instructions(t *testing.T, path string) (all []instruction) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(strings.ReplaceAll(string(text), "\\\n", " "), "\n") {
		if fields := strings.Fields(line); len(fields) > 0 && !strings.HasPrefix(fields[0], "#") {
			all = append(all, instruction{fields[0], fields[1:]})
		}
	}
	return all
}

// pinned is an image with a tag that says a version.
var pinned = regexp.MustCompile(`^[a-z0-9./-]+:[A-Za-z0-9._-]*[0-9][A-Za-z0-9._-]*(@sha256:[0-9a-f]{64})?$`)

func TestDockerfiles(t *testing.T) {
	ignored, err := os.ReadFile(filepath.Join(root, ".dockerignore"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range dockerfiles {
		stages, user, entry := []string{}, "", ""
		for _, i := range instructions(t, file) {
			switch i.name {
			case "FROM":
				if image := i.args[0]; image != "scratch" && !pinned.MatchString(image) {
					t.Errorf("%s: image %s is not pinned to a version", file, image)
				}
				user, entry = "", ""
				name := ""
				if len(i.args) == 3 && i.args[1] == "AS" {
					name = i.args[2]
				}
				stages = append(stages, name)
			case "COPY":
				checkCopy(t, file, i.args, stages, string(ignored))
			case "USER":
				user = i.args[0]
			case "ENTRYPOINT":
				entry = strings.Join(i.args, " ")
			}
		}
		if !regexp.MustCompile(`^[1-9][0-9]*:[1-9][0-9]*$`).MatchString(user) {
			t.Errorf("%s: runs as user %q; want numbers, which Kubernetes can tell from root's", file, user)
		}
		if !strings.HasPrefix(entry, `["/`) {
			t.Errorf("%s: entry point %s: want a program without a shell, for signals to reach it", file, entry)
		}
	}
}

// checkCopy refuses sources that are not there: in the context, or as an earlier stage.
func checkCopy(t *testing.T, file string, args, stages []string, ignored string) {
	t.Helper()
	for len(args) > 0 && strings.HasPrefix(args[0], "--") {
		if stage, ok := strings.CutPrefix(args[0], "--from="); ok {
			if !slices.Contains(stages[:len(stages)-1], stage) {
				t.Errorf("%s: COPY from stage %q, which is none", file, stage)
			}
			return
		}
		args = args[1:]
	}
	for _, source := range args[:len(args)-1] {
		if _, err := os.Stat(filepath.Join(root, source)); err != nil {
			t.Errorf("%s: COPY: %v", file, err)
		}
		for pattern := range strings.SplitSeq(ignored, "\n") {
			if pattern != "" && (source == pattern || strings.HasPrefix(source, pattern+"/")) {
				t.Errorf("%s: COPY %s, which .dockerignore leaves out", file, source)
			}
		}
	}
}

// compose reads compose.yaml against the schema of the format, which knows every key.
func compose(t *testing.T, path string) (*types.Project, error) {
	t.Helper()
	options, err := cli.NewProjectOptions([]string{path}, cli.WithResolvedPaths(true))
	if err != nil {
		t.Fatal(err)
	}
	return options.LoadProject(t.Context())
}

func TestCompose(t *testing.T) {
	p, err := compose(t, "compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"coordinator", "worker-a", "worker-b", "postgres", "s3", "prometheus", "grafana"} {
		if _, err := p.GetService(name); err != nil {
			t.Error(err)
		}
	}
	subnet := netip.MustParsePrefix(p.Networks["default"].Ipam.Config[0].Subnet)
	for name, s := range p.Services {
		if s.Build == nil && !pinned.MatchString(s.Image) {
			t.Errorf("%s: image %s is not pinned to a version", name, s.Image)
		}
		if s.Build != nil {
			if _, err := os.Stat(filepath.Join(s.Build.Context, s.Build.Dockerfile)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) || s.Privileged || s.User != "" {
				t.Errorf("%s: may do more than it needs", name)
			}
		}
		for _, port := range s.Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s: port %s is open to other machines", name, port.Published)
			}
		}
		for _, v := range s.Volumes {
			if v.Type != types.VolumeTypeBind {
				continue
			}
			if _, err := os.Stat(v.Source); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		for _, arg := range s.Command {
			if network, ok := strings.CutPrefix(arg, "--fetch-network="); ok && network != subnet.String() {
				t.Errorf("%s: fetches from %s, and the services are in %s", name, network, subnet)
			}
		}
	}
	grace := p.Services["worker-a"].StopGracePeriod
	if grace == nil || p.Services["worker-b"].StopGracePeriod == nil {
		t.Error("workers have ten seconds for a checkpoint")
	}
}

// The schema is only worth something if it bites.
func TestComposeRefusesUnknownKeys(t *testing.T) {
	path := filepath.Join(t.TempDir(), "compose.yaml")
	if err := os.WriteFile(path, []byte("services: {a: {image: x, comand: [y]}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := compose(t, path); err == nil || !strings.Contains(err.Error(), "comand") {
		t.Errorf("got %v", err)
	}
}
