package main

import (
	"testing"

	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

func TestJSONFault(t *testing.T) {
	for text, want := range map[string]string{
		`{"train":{"data":"my"}}`:                                                   `train.data: want a list, as in ["my"]`,
		`{"train":{"data":["a"],"optimizer":{"momentum":0.9}}}`:                     `train.optimizer: no field "momentum"; it has learning_rate, start_learning_rate, final_learning_rate, warmup_steps, weight_decay, final_weight_decay, ema_start, ema_end, clip_norm, loss_exponent, variance_coeff, schedule_scale, clip_after`,
		`{"train":{"data":["a"],"optimizer":{"learningRate":1,"learning_rate":1}}}`: "",
		`{"train":{"optimizer":3}}`:                                                 "train.optimizer: want an object, not a number",
		`{"train":{"precision":16}}`:                                                "train.precision: want a text in quotes, not 16",
		`{"train":{"sampling":{"flip":"yes"}}}`:                                     `train.sampling.flip: want true or false, not "yes"`,
		`{"train":{"steps":[1]}}`:                                                   "train.steps: want a value, not a list",
		`{"train":{"steps":"ten"}}`:                                                 "", // protojson takes numbers in quotes, and knows which are none
		`{"rank":{"sets":[{"context":"a"},{"contxt":1}]}}`:                          `rank.sets[1]: no field "contxt"; it has context, candidates, make`,
		`{"train":null,"scheduling":{"deadline":"2030-01-01T00:00:00Z","needs":{"labels":{"a":"b"}}}}`: "",
		`{"parameters":[]}`: "",
		`[1]`:               "",
		`{"train":`:         "",
	} {
		if got := jsonFault([]byte(text), (&surmisev1.SubmitJobRequest{}).ProtoReflect().Descriptor()); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", text, got, want)
		}
	}
}
