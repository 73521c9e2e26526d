package deploy

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// machine is a made-up computer: the script finds these commands before the real ones.
type machine struct {
	osRelease string
	user      string            // what id -u prints
	installed string            // packages dpkg-query knows, separated by spaces
	goVersion string            // what go env GOVERSION prints
	env       map[string]string // beside PATH
	noSudo    bool
}

var debian = machine{
	osRelease: "ID=debian\nVERSION_ID=\"12\"\n",
	user:      "0",
	installed: "libopencv-dev libdnnl-dev ffmpeg pkg-config g++ postgresql mlir-19-tools",
	goVersion: "go1.26.8",
}

// setup runs setup.sh on m and returns what it printed, the commands it ran as root, and its exit code.
func setup(t *testing.T, m machine) (out, commands string, code int) {
	t.Helper()
	dir := t.TempDir()
	log := filepath.Join(dir, "commands")
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	write("os-release", m.osRelease)
	write("go", "#!/bin/sh\necho "+m.goVersion)
	write("id", "#!/bin/sh\necho "+m.user)
	write("dpkg-query", `#!/bin/sh
for last; do :; done
case " `+m.installed+` " in *" $last "*) printf 'ii ' ;; *) exit 1 ;; esac`)
	write("apt-get", "#!/bin/sh\necho apt-get \"$@\" >>"+log)
	if !m.noSudo {
		write("sudo", "#!/bin/sh\necho sudo >>"+log+"\nexec \"$@\"")
	}
	for _, tool := range []string{"sh", "dirname", "sed", "env"} {
		real, err := exec.LookPath(tool)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(real, filepath.Join(dir, tool)); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "./setup.sh")
	cmd.Env = []string{"PATH=" + dir, "OS_RELEASE=" + filepath.Join(dir, "os-release")}
	for k, v := range m.env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	text, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	ran, err := os.ReadFile(log)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(text), string(ran), cmd.ProcessState.ExitCode()
}

func TestSetup(t *testing.T) {
	const update, install = "apt-get update -q\n", "apt-get install -q -y --no-install-recommends "
	for name, c := range map[string]struct {
		change   func(*machine)
		commands string
		code     int
		says     string
	}{
		"nothing missing": {func(*machine) {}, "", 0, ""},
		"some missing":    {func(m *machine) { m.installed = "ffmpeg g++" }, update + install + "libopencv-dev libdnnl-dev pkg-config postgresql mlir-19-tools\n", 0, "installing libopencv-dev"},
		"not root": {func(m *machine) {
			m.user, m.installed = "1000", "ffmpeg g++ pkg-config libdnnl-dev postgresql mlir-19-tools"
		}, "sudo\n" + update + "sudo\n" + install + "libopencv-dev\n", 0, ""},
		"no sudo":        {func(m *machine) { m.user, m.installed, m.noSudo = "1000", "ffmpeg", true }, "", 1, "as root, run: apt-get install"},
		"other system":   {func(m *machine) { m.osRelease = "ID=fedora\nVERSION_ID=43\n" }, "", 1, "this is fedora 43"},
		"newer Debian":   {func(m *machine) { m.osRelease = "ID=debian\nVERSION_ID=13\n" }, "", 1, "libopencv-dev libdnnl-dev ffmpeg"},
		"taken as it is": {func(m *machine) { m.osRelease, m.env = "ID=fedora\n", map[string]string{"SURMISE_SETUP": "skip"} }, "", 0, ""},
		"old Go":         {func(m *machine) { m.goVersion = "go1.25.3" }, "", 1, "this is go1.25.3; Surmise needs Go 1.26"},
		"unknown Go":     {func(m *machine) { m.goVersion = "devel" }, "", 1, "Surmise needs Go 1.26"},
	} {
		t.Run(name, func(t *testing.T) {
			m := debian
			c.change(&m)
			out, commands, code := setup(t, m)
			if commands != c.commands || code != c.code || !strings.Contains(out, c.says) {
				t.Errorf("exit %d, ran %q, said %q; want exit %d, %q, %q", code, commands, out, c.code, c.commands, c.says)
			}
		})
	}
}
