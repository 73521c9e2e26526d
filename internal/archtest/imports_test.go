// Package archtest holds the project to its import rules. docs/architecture.md draws them; this is
// what they mean exactly. It reads import declarations, so it needs no cgo and builds nothing.
package archtest

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/surmise-ml/surmise"

// rule says what the packages at and below a folder may import beside the standard library. The rule
// with the longest folder applies. Names cover what lies below them. Test files are free.
type rule struct {
	folder  string
	ours    []string // folders of this module
	outside []string // other modules
	why     string
}

var (
	gorgonia = []string{"gorgonia.org/gorgonia", "gorgonia.org/tensor", "github.com/chewxy/hm"}
	anything = []string{""}
	nothing  []string
)

// shared is what every package may import.
var shared = []string{"internal/durable", "internal/bounded", "internal/osfault", "internal/terminal"}

var rules = []rule{
	{"masking", nothing, nothing,
		"masks are pure arithmetic on token indices; anyone can lift them out and test them alone"},
	{"video", []string{"video"}, []string{"gocv.io/x/gocv", "golang.org/x/sys/unix"},
		"decoding hostile files runs in a child process that should hold as little as possible"},
	{"video/source", nothing, nothing,
		"what people name is found, and kept within bounds, without a decoder"},
	{"video/header", nothing, nothing,
		"what files say of themselves is read and fuzzed without a decoder"},
	{"video/wire", nothing, nothing,
		"what processes say to each other is tested and fuzzed without a decoder"},
	{"video/synth/physics", nothing, nothing,
		"what moves is arithmetic, tested without a picture"},
	{"video/remote", []string{"video/source"}, []string{"gocloud.dev"},
		"the SDKs of object stores stay out of what decodes"},
	{"artifact", nothing, []string{"gocloud.dev", "github.com/cenkalti/backoff/v5", "golang.org/x/sync"},
		"bundles are files and digests, whoever made them; both coordinator and worker keep them here"},
	{"artifact/stores", nothing, []string{"gocloud.dev"},
		"the SDKs of object stores come into programs that ask for them"},
	{"artifact/artifacttest", nothing, anything,
		"a server for tests"},
	{"trainer/graph", nothing, gorgonia,
		"the operations are the common ground of all machines and depend on none"},
	{"trainer/model", []string{"trainer/graph"}, gorgonia,
		"one description of the model, whatever machine runs it and whatever data it sees"},
	{"trainer/cpu", []string{"trainer/cpu", "trainer/graph"}, gorgonia,
		"a machine runs any graph of our operations, not one model"},
	{"trainer/xla", []string{"trainer/xla", "trainer/graph"}, anything,
		"a machine runs any graph of our operations, not one model"},
	{"trainer/checkpoint", nothing, nothing,
		"files outlive models: names, shapes and numbers only"},
	{"trainer/checkpoint/torch", nothing, nothing,
		"what reads hostile pickles holds nothing else"},
	{"trainer/parallel", nothing, nothing,
		"what joins processes knows nothing of what they compute"},
	{"trainer/parallel/paralleltest", []string{"trainer/parallel"}, nothing,
		"a group for tests"},
	{"trainer/exchange", []string{"trainer/checkpoint", "trainer/model"}, nothing,
		"layouts of other programs are names and shapes; no machine is needed to move weights"},
	{"trainer", []string{"video", "masking", "trainer/graph", "trainer/model", "trainer/cpu", "trainer/xla", "trainer/checkpoint", "trainer/parallel"}, anything,
		"training must run without a coordinator, and scoring must not depend on it"},
	{"plausibility", []string{"plausibility", "video", "masking", "trainer/graph", "trainer/model", "trainer/cpu", "trainer/xla", "trainer/checkpoint"}, anything,
		"a score depends on a model's weights, never on the code that trained it"},
	{"plausibility/compare", nothing, []string{"gonum.org/v1/gonum/stat"},
		"the statistics of scores need neither videos nor models, so the coordinator can compute them"},
	{"coordinator/queue", []string{"coordinator/queue"}, anything,
		"the job state machine and its stores know jobs as plain data"},
	{"coordinator/queue/queuetest", []string{"coordinator"}, anything,
		"the suite meets stores through the interface that the coordinator declares"},
	{"coordinator/launch", []string{"coordinator/launch", "coordinator/queue"}, anything,
		"what starts workers knows how many jobs wait, and nothing of what is in them"},
	{"coordinator", []string{"coordinator", "artifact", "proto", "plausibility/compare"}, anything,
		"the coordinator runs where neither OpenCV nor a model is installed"},
	{"worker", []string{"worker", "artifact", "proto", "trainer", "plausibility", "video"}, anything, // the last for the settings of the two before
		"a worker knows its coordinator only through the API"},
	{"proto", []string{"proto"}, anything,
		"the API depends on nothing that implements it"},
	{"proto/jobspec", []string{"proto", "masking"}, anything,
		"defaults of a job are filled in once; those of masks are for masking to say"},
	{"cmd", []string{""}, anything, "commands wire the packages together"},
	{"bench", []string{""}, anything, "benchmarks measure the packages together"},
	{"internal", []string{"trainer/checkpoint"}, nothing,
		"what tests share reads golden files and no more, so that every package may use it"},
	{"internal/durable", nothing, nothing,
		"how a file is written whole or not at all; every package may import it"},
	{"internal/bounded", nothing, nothing,
		"how much is read of what others wrote; every package may import it"},
	{"internal/osfault", nothing, nothing,
		"whose fault an error of the operating system is; every package may import it"},
	{"internal/terminal", nothing, nothing,
		"how text of others is shown; every package may import it"},
	{"deploy", nothing, nothing, "scripts and their tests"},
}

// protobuf types stop at these folders; everything inside works on plain Go types.
var (
	protobuf     = []string{"google.golang.org/protobuf", "google.golang.org/grpc", module + "/proto"}
	mayUseProtos = []string{"proto", "coordinator", "worker", "cmd"}
)

// withoutCgo may not reach cgo through any of our packages: the coordinator is one static binary.
var withoutCgo = []string{"artifact", "cmd/coordinator", "coordinator", "masking", "trainer/checkpoint", "proto"}

func TestImports(t *testing.T) {
	packages := readImports(t)
	for folder, imports := range packages {
		for _, imported := range imports {
			if err := check(folder, imported); err != nil {
				t.Error(err)
			}
		}
		if name := path.Base(folder); slices.Contains([]string{"util", "utils", "common", "helper", "helpers", "misc"}, name) {
			t.Errorf("%s: a package is named after what it provides", folder)
		}
	}
	for folder := range packages {
		if chain := findCgo(packages, folder, nil); chain != nil && covered(withoutCgo, folder) {
			t.Errorf("%s must build without cgo, but: %s", folder, strings.Join(chain, " -> "))
		}
	}
}

// The rules are only worth something if they bite.
func TestRulesBite(t *testing.T) {
	for _, c := range []struct {
		folder, imported string
		allowed          bool
	}{
		{"masking", "slices", true},
		{"masking", "gonum.org/v1/gonum/stat", false},
		{"video/synth", module + "/video", true},
		{"video", module + "/masking", false},
		{"artifact", "gocloud.dev/blob/fileblob", true},
		{"artifact", module + "/trainer/checkpoint", false},
		{"trainer", module + "/artifact", false},
		{"trainer/checkpoint", module + "/internal/durable", true},
		{"internal/durable", module + "/trainer/checkpoint", false},
		{"trainer/model", "gorgonia.org/gorgonia", true},
		{"trainer/model", module + "/trainer/cpu", false},
		{"trainer", module + "/trainer/checkpoint", true},
		{"trainer", module + "/plausibility", false},
		{"plausibility", module + "/trainer/model", true},
		{"plausibility", module + "/trainer", false},
		{"plausibility/report", "google.golang.org/protobuf/proto", false},
		{"coordinator", module + "/proto/surmise/v1", true},
		{"coordinator", module + "/video", false},
		{"coordinator", module + "/plausibility", false},
		{"coordinator", module + "/plausibility/compare", true},
		{"proto/jobspec", module + "/masking", true},
		{"proto/jobspec", module + "/trainer/model", false},
		{"coordinator/queue", module + "/proto/surmise/v1", false},
		{"worker", module + "/trainer", true},
		{"worker", module + "/coordinator/queue", false},
		{"cmd/surmise", module + "/coordinator", true},
		{"somewhere/new", "fmt", false},
	} {
		if err := check(c.folder, c.imported); (err == nil) != c.allowed {
			t.Errorf("%s importing %s: allowed should be %v, got %v", c.folder, c.imported, c.allowed, err)
		}
	}
}

func check(folder, imported string) error {
	r, ok := ruleOf(folder)
	if !ok {
		return fmt.Errorf("%s: no import rule covers this folder; add one to internal/archtest", folder)
	}
	ours, isOurs := strings.CutPrefix(imported, module+"/")
	switch {
	case isOurs && !slices.Contains(shared, ours) && !covered(r.ours, ours), !isOurs && !standard(imported) && !covered(r.outside, imported):
		return fmt.Errorf("%s must not import %s: %s", folder, imported, r.why)
	case covered(protobuf, imported) && (!covered(mayUseProtos, folder) || r.folder == "coordinator/queue"):
		return fmt.Errorf("%s must not import %s: protobuf types stop at %s", folder, imported, strings.Join(mayUseProtos, ", "))
	}
	return nil
}

// ruleOf returns the rule with the longest folder that covers folder.
func ruleOf(folder string) (rule, bool) {
	var best rule
	for _, r := range rules {
		if covered([]string{r.folder}, folder) && len(r.folder) > len(best.folder) {
			best = r
		}
	}
	return best, best.folder != ""
}

// covered reports whether one of names is p or lies above it. The empty name covers everything.
func covered(names []string, p string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return n == "" || p == n || strings.HasPrefix(p, n+"/") })
}

// standard reports whether an import belongs to the standard library: its first element has no dot.
func standard(imported string) bool {
	first, _, _ := strings.Cut(imported, "/")
	return !strings.Contains(first, ".")
}

// readImports returns what the files of each folder import, tests and testdata left out, whatever
// their build tags.
func readImports(t *testing.T) map[string][]string {
	t.Helper()
	const root = "../.."
	packages := map[string][]string{}
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			own := name != root && isFile(filepath.Join(name, "go.mod")) // tools have modules of their own
			if base := d.Name(); own || base == "testdata" || base == "bin" || name != root && strings.HasPrefix(base, ".") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		folder, err := filepath.Rel(root, filepath.Dir(name))
		if err != nil {
			return err
		}
		folder = filepath.ToSlash(folder)
		for _, i := range f.Imports {
			imported, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			if i.Name != nil && i.Name.Name == "." {
				t.Errorf("%s: dot import of %s hides where a name comes from", name, imported)
			}
			packages[folder] = append(packages[folder], imported)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return packages
}

func isFile(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.Mode().IsRegular()
}

// findCgo returns a chain of imports from folder to cgo, or nil.
func findCgo(packages map[string][]string, folder string, chain []string) []string {
	chain = append(slices.Clone(chain), folder)
	for _, imported := range packages[folder] {
		if imported == "C" || strings.HasPrefix(imported, "gocv.io/") {
			return append(chain, imported)
		}
		next, isOurs := strings.CutPrefix(imported, module+"/")
		if !isOurs || slices.Contains(chain, next) {
			continue
		}
		if found := findCgo(packages, next, chain); found != nil {
			return found
		}
	}
	return nil
}

// docs/architecture.md says of every folder with code what it does: whoever looks for the place of a new line reads there.
func TestEveryFolderIsDescribed(t *testing.T) {
	text, err := os.ReadFile("../../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]bool{}
	err = fs.WalkDir(os.DirFS("../.."), ".", func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, folder := entry.Name(), path.Dir(file)
		switch {
		case entry.IsDir() && file != "." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin"):
			return fs.SkipDir
		case entry.IsDir() || path.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go") || told[folder]:
			return nil
		}
		told[folder] = true
		helper := strings.HasSuffix(folder, "test") // named beside what it helps to test
		if !helper && !strings.Contains(string(text), "`"+folder+"/`") && !strings.Contains(string(text), "`"+folder+"`") {
			t.Errorf("docs/architecture.md does not say what %s/ does", folder)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
