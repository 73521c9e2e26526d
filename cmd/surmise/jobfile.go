package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/surmise-ml/surmise/internal/bounded"
	"github.com/surmise-ml/surmise/proto/jobspec"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

const maxJobFileBytes = 4 << 20

// readJobFile reads a SubmitJobRequest in protojson from a file, or from in when path is "-". A field that is not in the
// API is refused by name.
func readJobFile(path string, in io.Reader) (*surmisev1.SubmitJobRequest, error) {
	request := &surmisev1.SubmitJobRequest{}
	if err := readRequest("job file", path, in, request); err != nil {
		return nil, err
	}
	return request, nil
}

// readRequest reads a request as readJobFile does; what says which kind of file it is.
func readRequest(what, path string, in io.Reader, request proto.Message) error {
	name := inputName(path)
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return badInput(fmt.Errorf("%s: %w", what, err))
		}
		defer f.Close()
		in = f
	}
	text, err := bounded.Read(in, maxJobFileBytes)
	if err != nil {
		err = fmt.Errorf("%s %s: %w", what, name, err)
		if errors.Is(err, bounded.ErrTooLarge) {
			err = badInput(err)
		}
		return err
	}
	_, job := request.(*surmisev1.SubmitJobRequest)
	if err := protojson.Unmarshal(text, request); err != nil {
		says := plainProto(err)
		if fault := jsonFault(text, request.ProtoReflect().Descriptor()); fault != "" {
			says = fault
		}
		if job && strings.Contains(says, "unknown field") && !hasKind(text) {
			says += "; " + jobKinds
		}
		if job && strings.Contains(says, `unknown field "parameters"`) {
			says += "; a job that varies is a sweep: 'surmise sweep -f'"
		}
		if len(bytes.TrimSpace(text)) == 0 {
			says = "it is empty"
		}
		return badInput(fmt.Errorf("%s %s: %s", what, name, says))
	}
	if job && !hasKind(text) {
		return badInput(fmt.Errorf("%s %s: it says no kind; %s", what, name, jobKinds))
	}
	return nil
}

const jobKinds = `a job is {"train": {…}}, {"score": {…}} or {"rank": {…}}`

// inputName is a file of a flag as people read it.
func inputName(path string) string {
	if path == "-" {
		return "standard input"
	}
	return path
}

// hasKind tells whether a job says what kind it is.
func hasKind(job []byte) bool {
	var fields map[string]json.RawMessage
	_ = json.Unmarshal(job, &fields) // what is no object has none
	kinds := (&surmisev1.SubmitJobRequest{}).ProtoReflect().Descriptor().Oneofs().ByName("spec").Fields()
	for i := range kinds.Len() {
		if fields[kinds.Get(i).JSONName()] != nil {
			return true
		}
	}
	return false
}

// plainProto takes protojson's prefix off, whose white space varies on purpose.
func plainProto(err error) string {
	text := strings.ReplaceAll(err.Error(), "\u00a0", " ")
	return strings.TrimSpace(strings.TrimPrefix(text, "proto:"))
}

// specOf is the complete specification that a request asks for, for work without a coordinator.
func specOf(request *surmisev1.SubmitJobRequest) (*surmisev1.JobSpec, error) {
	spec := &surmisev1.JobSpec{}
	switch kind := request.Spec.(type) {
	case *surmisev1.SubmitJobRequest_Train:
		spec.Kind = &surmisev1.JobSpec_Train{Train: kind.Train}
	case *surmisev1.SubmitJobRequest_Score:
		spec.Kind = &surmisev1.JobSpec_Score{Score: kind.Score}
	case *surmisev1.SubmitJobRequest_Rank:
		spec.Kind = &surmisev1.JobSpec_Rank{Rank: kind.Rank}
	default:
		return nil, badInput(errors.New(`a job has one of "train", "score" and "rank", this one has none`))
	}
	return jobspec.Complete(spec)
}
