package exchange

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/surmise-ml/surmise/internal/durable"
	"github.com/surmise-ml/surmise/trainer/checkpoint"
	"github.com/surmise-ml/surmise/trainer/checkpoint/torch"
	"github.com/surmise-ml/surmise/trainer/model"
)

func readConfig(t *testing.T, path string) (out map[string]any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, &out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// small is a V-JEPA 2 whose every number differs, small enough for a test.
func small() model.Config {
	return model.Config{Objective: model.Masked, Size: 32, Frames: 4, Patch: 16, Tubelet: 2, Dim: 24, Depth: 2, Heads: 2, PredDim: 12, PredDepth: 1, PredHeads: 1,
		MLPRatio: 3, PredMLPRatio: 2, MaskTokens: 3, Positions: model.RoPE, MaskToken: model.MaskTokenFirst}
}

func weights(c model.Config) map[string][]float32 {
	rng := rand.New(rand.NewPCG(1, 2))
	out := c.Init(1)
	for _, p := range c.Params() {
		if strings.HasSuffix(p.Name, "pos_embed") {
			continue
		}
		for i := range out[p.Name] {
			out[p.Name][i] = float32(rng.NormFloat64())
		}
	}
	return out
}

// saved writes a model of ours.
func saved(t testing.TB, c model.Config) string {
	t.Helper()
	w := weights(c)
	var sources []checkpoint.Source
	for _, p := range c.Params() {
		sources = append(sources, checkpoint.Source{Name: p.Name, Shape: p.Shape, Read: func(dst []float32) error { copy(dst, w[p.Name]); return nil }})
	}
	config, err := json.Marshal(map[string]any{"model": c})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "m.safetensors")
	if _, err := checkpoint.WriteModel(path, sources, config, 7); err != nil {
		t.Fatal(err)
	}
	return path
}

func export(t *testing.T, from, format string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "exported")
	if _, err := Export(from, out, ExportOptions{Format: format}); err != nil {
		t.Fatal(err)
	}
	return out
}

// Everything that a published layout can say comes back: gated MLPs, tables of either kind, clips of any shape.
func TestRoundTrips(t *testing.T) {
	gated, tabled, wide := small(), small(), small()
	gated.MLP, gated.PredMLP = model.SwiGLU, model.SwiGLU
	tabled.Positions, tabled.MaskToken, tabled.PredDim, tabled.PredHeads = model.SinCos, "", 16, 2
	wide.Positions, wide.MaskToken, wide.PredDim, wide.PredHeads = model.SinCosUniform, "", 16, 2
	wide.Height, wide.Width = 32, 64
	pixels := small()
	pixels.Target = model.Pixels
	frozen := small()
	frozen.FrozenEncoder = true
	eps := small()
	eps.NormEps, eps.PredMLPRatio = 1e-5, 0
	for name, c := range map[string]struct {
		model  model.Config
		format string
		o      Options
	}{
		"gated":           {gated, VJEPA, Options{Heads: 2, PredHeads: 1, Frames: 4, Size: 32}},
		"table":           {tabled, VJEPA, Options{Heads: 2}},
		"wide":            {wide, VJEPA, Options{Heads: 2}},
		"other eps":       {eps, HF, Options{}},
		"nothing changed": {small(), Surmise, Options{}},
		"pixels":          {pixels, Surmise, Options{}},
		"frozen":          {frozen, Surmise, Options{}},
	} {
		t.Run(name, func(t *testing.T) {
			from := saved(t, c.model)
			source := from
			if c.format != Surmise {
				source = export(t, from, c.format)
			}
			m, i := imported(t, source, c.o)
			if i.Config != c.model {
				t.Errorf("config %+v, want %+v", i.Config, c.model)
			}
			if kept := strings.Contains(string(m.Config), `"config":{"model":`); kept != (c.format == Surmise) {
				t.Errorf("config %s", m.Config)
			}
			if want := map[bool]int{true: 7, false: 0}[c.format == Surmise]; m.Step != want {
				t.Errorf("step %d, want %d", m.Step, want)
			}
			w := weights(c.model)
			for name, x := range byName(m) {
				if c.format == HF {
					name = ofHF(name)
				}
				if !slices.Equal(x.Data, w[name]) {
					t.Errorf("%s has other numbers", name)
				}
			}
		})
	}
}

// ofHF is the tensor that an import of a VJEPA2Model has under a name: its one encoder is the target encoder.
func ofHF(name string) string {
	if rest, ok := strings.CutPrefix(name, model.EncoderPrefix); ok {
		return model.TargetPrefix + rest
	}
	return name
}

// The rate of training, its seed and what it began with go with a model of ours; what a layout cannot say is noted.
func TestTrainingIsCarried(t *testing.T) {
	c := small()
	w := weights(c)
	var sources []checkpoint.Source
	for _, p := range c.Params() {
		sources = append(sources, checkpoint.Source{Name: p.Name, Shape: p.Shape, Read: func(dst []float32) error { copy(dst, w[p.Name]); return nil }})
	}
	config, err := json.Marshal(map[string]any{"model": c, "seed": 9, "data": map[string]any{"data": []string{"clips"}, "fps": 4}, "init": map[string]any{"from": "m", "sha256": "abc"}})
	if err != nil {
		t.Fatal(err)
	}
	from := filepath.Join(t.TempDir(), "m.safetensors")
	if _, err := checkpoint.WriteModel(from, sources, config, 7); err != nil {
		t.Fatal(err)
	}
	m, i := imported(t, from, Options{Which: TargetEncoder})
	if i.Training.Data.FPS != 4 || !strings.Contains(string(m.Config), `"data":{"fps":4},"seed":9,"init":{"from":"m","sha256":"abc"},"imported":`) {
		t.Errorf("trained %+v, config %s", i.Training, m.Config)
	}
	for _, format := range []string{HF, VJEPA} {
		out := filepath.Join(t.TempDir(), "exported")
		notes, err := Export(from, out, ExportOptions{Format: format})
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(strings.Join(notes, "\n"), "the layout has no rate: the model was trained at 4 frames a second") {
			t.Errorf("%s: notes %q", format, notes)
		}
		o := Options{}
		if format == VJEPA {
			o = Options{Heads: c.Heads, PredHeads: c.PredHeads, Frames: c.Frames, Size: c.Size}
		}
		if m, i := imported(t, out, o); i.Training != (Training{}) || strings.Contains(string(m.Config), `"data"`) {
			t.Errorf("%s: trained %+v, config %s", format, i.Training, m.Config)
		}
	}
}

// A folder of several files, in bfloat16, is one model; what its index says must be so.
func TestShards(t *testing.T) {
	dir := export(t, saved(t, small()), HF)
	all, _, err := checkpoint.ReadSafetensors(filepath.Join(dir, hfWeights))
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, tensors []checkpoint.Tensor) {
		if _, err := checkpoint.WriteSafetensors(filepath.Join(dir, name), tensors, nil); err != nil {
			t.Fatal(err)
		}
	}
	index := map[string]string{}
	shards := []string{"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}
	for i, half := range [][]checkpoint.Tensor{all[:len(all)/2], all[len(all)/2:]} {
		write(shards[i], half)
		for _, x := range half {
			index[x.Name] = shards[i]
		}
	}
	if err := os.Remove(filepath.Join(dir, hfWeights)); err != nil {
		t.Fatal(err)
	}
	writeIndex := func() {
		text, err := json.Marshal(map[string]any{"metadata": map[string]any{"total_size": 1}, "weight_map": index})
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, hfIndex), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	writeIndex()
	m, i := imported(t, dir, Options{})
	if len(i.Provenance.Files) != 3 {
		t.Errorf("files %v, want the configuration and two shards", i.Provenance.Files)
	}
	w := weights(small())
	for name, x := range byName(m) {
		if !slices.Equal(x.Data, w[ofHF(name)]) {
			t.Errorf("%s has other numbers", name)
		}
	}
	first := all[0].Name
	for want, name := range map[string]string{"it is in": shards[1], "beside it": "../" + shards[0], ".safetensors file": "model.bin"} {
		index[first] = name
		writeIndex()
		if _, err := Open(dir, Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("a tensor in %s: got %v, want an error with %q", name, err, want)
		}
	}
	index[first] = shards[0]
	index["ghost"] = shards[0]
	writeIndex()
	if _, err := Open(dir, Options{}); err == nil || !strings.Contains(err.Error(), "ghost") {
		t.Errorf("a tensor that is nowhere: got %v", err)
	}
	delete(index, "ghost")
	write(shards[1], all[len(all)/2-1:])
	writeIndex()
	if _, err := Open(dir, Options{}); err == nil || !strings.Contains(err.Error(), all[len(all)/2-1].Name) {
		t.Errorf("a tensor in two files: got %v", err)
	}
}

// A folder of half precision is widened, exactly; integers in place of weights are refused by name.
func TestHFTypes(t *testing.T) {
	dir := export(t, saved(t, small()), HF)
	path := filepath.Join(dir, hfWeights)
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	all, _, err := checkpoint.ReadSafetensors(path)
	if err != nil {
		t.Fatal(err)
	}
	half := func(dtype string) []byte { // each float32 as its upper half
		header := map[string]any{}
		var values []byte
		for _, x := range all {
			begin := len(values)
			for _, v := range x.Data {
				values = binary.LittleEndian.AppendUint16(values, uint16(math.Float32bits(v)>>16))
			}
			header[x.Name] = map[string]any{"dtype": dtype, "shape": x.Shape, "data_offsets": []int{begin, len(values)}}
		}
		text, err := json.Marshal(header)
		if err != nil {
			t.Fatal(err)
		}
		return append(append(binary.LittleEndian.AppendUint64(nil, uint64(len(text))), text...), values...)
	}
	if err := os.WriteFile(path, half("BF16"), 0o600); err != nil {
		t.Fatal(err)
	}
	m, _ := imported(t, dir, Options{})
	w := weights(small())
	for name, x := range byName(m) {
		for i, v := range w[ofHF(name)] {
			if want := math.Float32frombits(math.Float32bits(v) &^ 0xffff); x.Data[i] != want {
				t.Fatalf("%s: number %d is %v, want %v", name, i, x.Data[i], want)
			}
		}
	}
	for want, file := range map[string][]byte{
		"holds numbers of type I16": half("I16"),
		"dtype \"F8_E4M3\"":         half("F8_E4M3"),
		"outside the file":          raw[:len(raw)-1],
		"header length":             append(binary.LittleEndian.AppendUint64(nil, 1<<40), raw[8:]...),
	} {
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}

// dictOf is a checkpoint of the published layout, for tests to damage.
func dictOf(c model.Config) (*torch.Dict, map[string]*torch.Dict) {
	tensors := map[string]checkpoint.Tensor{}
	for name, x := range weights(c) {
		tensors[name] = checkpoint.Tensor{Data: x}
	}
	d := vjepaDict(tensors, c)
	return d, map[string]*torch.Dict{"encoder": d.Get("encoder").(*torch.Dict), "predictor": d.Get("predictor").(*torch.Dict), "target_encoder": d.Get("target_encoder").(*torch.Dict)}
}

func written(t testing.TB, root torch.Value) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "checkpoint.pt")
	if err := durable.WriteFile(path, 0o644, func(w io.Writer) error { return torch.Write(w, root) }); err != nil {
		t.Fatal(err)
	}
	return path
}

func ones(shape ...int) *torch.Saved {
	return &torch.Saved{Shape: shape, Read: func(dst []float32) error { return nil }}
}

func drop(d *torch.Dict, key string) {
	d.Items = slices.DeleteFunc(d.Items, func(i torch.Item) bool { return i.Key == torch.String(key) })
}

// All that does not fit is listed at once, and nothing is written.
func TestImportIsStrict(t *testing.T) {
	o := Options{Heads: 2, PredHeads: 1, Frames: 4, Size: 32}
	for name, c := range map[string]struct {
		change func(root *torch.Dict, networks map[string]*torch.Dict)
		want   []string
	}{
		"three faults": {func(_ *torch.Dict, n map[string]*torch.Dict) {
			drop(n["encoder"], "module.backbone.blocks.1.norm2.bias")
			n["predictor"].Set("module.backbone.action_encoder.weight", ones(3, 3))
			n["target_encoder"].Set("module.backbone.norm.weight", ones(25))
		}, []string{`1 missing: "encoder.blocks.1.norm2.bias"`, `1 extra: "predictor.action_encoder.weight"`, `1 of another shape: "target_encoder.norm.weight" [25] instead of [24]`}},
		"a missing block": {func(_ *torch.Dict, n map[string]*torch.Dict) {
			n["encoder"].Items = slices.DeleteFunc(n["encoder"].Items, func(i torch.Item) bool { return strings.Contains(string(i.Key.(torch.String)), "blocks.0.attn") })
		}, []string{`4 missing: "encoder.blocks.0.attn`}},
		"no patch embedding": {func(_ *torch.Dict, n map[string]*torch.Dict) {
			drop(n["encoder"], "module.backbone.patch_embed.proj.weight")
		}, []string{"missing patch_embed.proj.weight"}},
		"an image model": {func(_ *torch.Dict, n map[string]*torch.Dict) {
			n["encoder"].Set("module.backbone.patch_embed.proj.weight", ones(24, 3, 16, 16))
		}, []string{"patch_embed.proj.weight has shape [24 3 16 16], want 5"}},
		"no predictor": {func(r *torch.Dict, _ map[string]*torch.Dict) { drop(r, "predictor") }, []string{"no predictor"}},
		"no encoders":  {func(r *torch.Dict, _ map[string]*torch.Dict) { drop(r, "encoder"); drop(r, "target_encoder") }, []string{"neither an encoder"}},
		"another network": {func(r *torch.Dict, _ map[string]*torch.Dict) {
			d := &torch.Dict{}
			d.Set("w", ones(1))
			r.Set("classifier", d)
		}, []string{"extra", "classifier"}},
		"not a state dict": {func(r *torch.Dict, _ map[string]*torch.Dict) { r.Set("encoder", torch.Int(1)) }, []string{"encoder: 1, want a state dict"}},
		"not a tensor":     {func(_ *torch.Dict, n map[string]*torch.Dict) { n["encoder"].Set("x", torch.Int(1)) }, []string{`"x" is 1, want a tensor`}},
		"wrapped twice":    {func(_ *torch.Dict, n map[string]*torch.Dict) { n["encoder"].Set("norm.weight", ones(24)) }, []string{`"norm.weight" is there twice`}},
		"a block of no number": {func(_ *torch.Dict, n map[string]*torch.Dict) {
			n["encoder"].Set("blocks.99999999.norm1.weight", ones(24))
		}, []string{"blocks.99999999 is no block"}},
	} {
		root, networks := dictOf(small())
		c.change(root, networks)
		_, err := Open(written(t, root), o)
		for _, want := range c.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want an error with %q", name, err, want)
			}
		}
	}
}

func TestWhichEncoder(t *testing.T) {
	c := small()
	w := weights(c)
	o := Options{Heads: 2, PredHeads: 1, Frames: 4, Size: 32}
	for _, test := range []struct {
		drop, which      string
		encoder, target  string // where each comes from
		stands, mentions string
	}{
		{"", Both, "encoder.", "target_encoder.", Both, ""},
		{"", Encoder, "encoder.", "encoder.", Encoder, ""},
		{"", TargetEncoder, "target_encoder.", "target_encoder.", TargetEncoder, ""},
		{"target_encoder", Both, "encoder.", "encoder.", Encoder, "no target encoder"},
		{"encoder", Both, "target_encoder.", "target_encoder.", TargetEncoder, "no encoder"},
	} {
		root, _ := dictOf(c)
		if test.drop != "" {
			drop(root, test.drop)
		}
		o.Which = test.which
		m, i := imported(t, written(t, root), o)
		x := byName(m)
		if !slices.Equal(x["encoder.norm.weight"].Data, w[test.encoder+"norm.weight"]) || !slices.Equal(x["target_encoder.norm.weight"].Data, w[test.target+"norm.weight"]) {
			t.Errorf("%+v: the encoders are others", test)
		}
		if i.Provenance.Encoders != test.stands || !strings.Contains(strings.Join(i.Provenance.Notes, "\n"), test.mentions) {
			t.Errorf("%+v: provenance %+v", test, i.Provenance)
		}
	}
	root, _ := dictOf(c)
	drop(root, "target_encoder")
	o.Which = TargetEncoder
	if _, err := Open(written(t, root), o); err == nil || !strings.Contains(err.Error(), "no target_encoder") {
		t.Errorf("an encoder that is not there: got %v", err)
	}
}

// What tensors do not tell comes from the published models or the options, and is noted where it was taken for granted.
func TestInference(t *testing.T) {
	large := small()
	large.Dim, large.Heads, large.PredDim, large.PredHeads, large.Depth, large.PredDepth, large.MLPRatio, large.PredMLPRatio = 1024, 16, 96, 12, 1, 1, 0.25, 0
	large.Patch, large.Size = 8, 32
	root, _ := dictOf(large)
	path := written(t, root)
	i, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	if c := i.Config; c.Heads != 16 || c.PredHeads != 12 || c.Frames != 64 || c.Size != 256 || c.Positions != model.RoPE || c.MaskToken != model.MaskTokenFirst {
		t.Errorf("config %+v", c)
	}
	if notes := strings.Join(i.Provenance.Notes, "\n"); !strings.Contains(notes, "64 frames") || !strings.Contains(notes, "256 px") || !strings.Contains(notes, model.RoPEInterleaved) {
		t.Errorf("what was assumed is not noted: %q", notes)
	}
	if all, largest := i.Values(); largest < 3*1024*1024 || all < 2*largest {
		t.Errorf("%d values, the largest tensor %d", all, largest)
	}
	root, _ = dictOf(small())
	path = written(t, root)
	for want, o := range map[string]Options{
		"heads: the tensors do not tell": {},
		"pred_heads: the tensors":        {Heads: 2},
		"heads is 5":                     {Heads: 5},
		"which is":                       {Which: "neither"},
		"positions is":                   {Positions: model.SinCos},
		"must not be below 0":            {Frames: -1},
		"model.frames is 5":              {Heads: 2, PredHeads: 1, Frames: 5},
	} {
		if _, err := Open(path, o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want an error with %q", o, err, want)
		}
	}
	// A table of another clip size is resized, and says so.
	tabled := small()
	tabled.Positions, tabled.MaskToken, tabled.PredDim, tabled.PredHeads = model.SinCosUniform, "", 16, 2
	root, _ = dictOf(tabled)
	m, i2 := imported(t, written(t, root), Options{Heads: 2, Frames: 8, Size: 64})
	table := byName(m)["encoder.pos_embed"]
	want := model.ResizePositions(weights(tabled)["encoder.pos_embed"], tabled.TokenGrid(), i2.Config.TokenGrid())
	if !slices.Equal(table.Data, want) || !slices.Equal(table.Shape, []int{1, 4 * 4 * 4, 24}) || !strings.Contains(strings.Join(i2.Provenance.Notes, ""), "resized") {
		t.Errorf("resized table %v, notes %v", table.Shape, i2.Provenance.Notes)
	}
	// A table of no known kind is used where its grid is told.
	root, networks := dictOf(tabled)
	learned := &torch.Saved{Shape: []int{1, 8, 24}, Read: func(dst []float32) error { dst[0] = 5; return nil }}
	networks["encoder"].Set("module.backbone.pos_embed", learned)
	networks["target_encoder"].Set("module.backbone.pos_embed", learned)
	path = written(t, root)
	if _, err := Open(path, Options{Heads: 2}); err == nil || !strings.Contains(err.Error(), "give frames and size") {
		t.Errorf("a learned table: got %v", err)
	}
	m, _ = imported(t, path, Options{Heads: 2, Frames: 4, Size: 32})
	if byName(m)["encoder.pos_embed"].Data[0] != 5 {
		t.Error("a learned table was not kept")
	}
}

func TestHFConfigIsHeldToWhatWeCompute(t *testing.T) {
	dir := export(t, saved(t, small()), HF)
	good, err := os.ReadFile(filepath.Join(dir, hfConfig))
	if err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string][2]string{
		"hidden_act is \"silu\"":        {`"hidden_act": "gelu"`, `"hidden_act": "silu"`},
		"qkv_bias is false":             {`"qkv_bias": true`, `"qkv_bias": false`},
		"in_chans is 1":                 {`"in_chans": 3`, `"in_chans": 1`},
		"model_type is":                 {`"model_type": "vjepa2"`, `"model_type": "vivit"`},
		"architectures are":             {`"VJEPA2Model"`, `"VJEPA2ForVideoClassification"`},
		"model.heads":                   {`"num_attention_heads": 2`, `"num_attention_heads": 5`},
		"2 missing":                     {`"num_hidden_layers": 2`, `"num_hidden_layers": 99999999`},
		"pred_num_mask_tokens 0":        {`"pred_num_mask_tokens": 3`, `"pred_num_mask_tokens": 0`},
		`of another shape: "encoder.em`: {`"patch_size": 16`, `"patch_size": 8`},
		"cannot unmarshal":              {`"hidden_size": 24`, `"hidden_size": "24"`},
	} {
		if want == "2 missing" {
			want = "model.depth"
		}
		text := strings.Replace(string(good), change[0], change[1], 1)
		if text == string(good) {
			t.Fatalf("the file has no %s", change[0])
		}
		if err := os.WriteFile(filepath.Join(dir, hfConfig), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an error with %q", change[1], err, want)
		}
	}
}

// What a layout cannot say is refused, and nothing is left behind.
func TestExportRefuses(t *testing.T) {
	change := func(f func(*model.Config)) model.Config { c := small(); f(&c); return c }
	dir := t.TempDir()
	for want, c := range map[string]struct {
		model  model.Config
		format string
	}{
		"model.positions is rope_inter": {change(func(c *model.Config) { c.Positions = model.RoPEInterleaved }), HF},
		"model.mlp is swiglu":           {change(func(c *model.Config) { c.MLP = model.SwiGLU }), HF},
		"model.height is 32":            {change(func(c *model.Config) { c.Height, c.Width = 32, 64 }), HF},
		"model.norm_eps is 0.0001":      {change(func(c *model.Config) { c.NormEps = 1e-4 }), VJEPA},
		"model.objective is next":       {model.Config{Dim: 24, PredDim: 24, Heads: 2}.WithDefaults(), VJEPA},
		"model.target is pixels":        {change(func(c *model.Config) { c.Target = model.Pixels }), VJEPA},
		"format is \"onnx\"":            {small(), "onnx"},
	} {
		if _, err := Export(saved(t, c.model), filepath.Join(dir, "out"), ExportOptions{Format: c.format}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("%v is left behind (%v)", entries, err)
	}
	if _, err := Export(saved(t, small()), dir, ExportOptions{Format: HF}); err == nil || !strings.Contains(err.Error(), "exists") {
		t.Errorf("an output that exists: got %v", err)
	}
}

// FuzzHFConfig: whatever config.json says, an error or a model that can be listed.
func FuzzHFConfig(f *testing.F) {
	f.Add([]byte(`{"model_type":"vjepa2","architectures":["VJEPA2Model"]}`))
	f.Add([]byte(`{"model_type":"vjepa2","architectures":["VJEPA2Model"],"hidden_size":8192,"num_hidden_layers":128,"num_attention_heads":1,"mlp_ratio":16,"pred_num_mask_tokens":64}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		h := hfDefaults()
		if json.Unmarshal(text, &h) != nil {
			return
		}
		c, err := h.config()
		if err != nil {
			return
		}
		count := map[string]int{}
		for _, p := range hfPieces(c) {
			count[p.theirPrefix+p.ours] += p.count
		}
		for _, p := range c.Params() {
			if prefix, _, _ := splitNetwork(p.Name); prefix != model.TargetPrefix && count[p.Name] != p.Size() {
				t.Fatalf("%s: %d of %d numbers have a place", p.Name, count[p.Name], p.Size())
			}
		}
	})
}

// FuzzVJEPA: a checkpoint with two bytes changed and the end cut off is an error or a model with all its tensors, and never
// a panic.
func FuzzVJEPA(f *testing.F) {
	root, _ := dictOf(small())
	var b bytes.Buffer
	if err := torch.Write(&b, root); err != nil {
		f.Fatal(err)
	}
	whole := b.Bytes()
	f.Add(uint(300), byte('}'), uint(8000), byte(0), uint(0))
	f.Add(uint(80), byte('J'), uint(len(whole)-30), byte(0xff), uint(9))
	f.Fuzz(func(t *testing.T, first uint, a byte, second uint, b byte, cut uint) {
		data := slices.Clone(whole)
		data[first%uint(len(data))], data[second%uint(len(data))] = a, b
		path := filepath.Join(t.TempDir(), "x.pt")
		if err := os.WriteFile(path, data[:uint(len(data))-cut%uint(len(data))], 0o600); err != nil {
			t.Fatal(err)
		}
		i, err := Open(path, Options{Heads: 2, PredHeads: 1, Frames: 4, Size: 32})
		if err != nil {
			return
		}
		defer i.Close()
		if len(i.tensors) != len(i.Config.Params()) {
			t.Fatalf("a model of %d tensors, want %d", len(i.tensors), len(i.Config.Params()))
		}
	})
}
