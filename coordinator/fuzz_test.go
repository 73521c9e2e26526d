package coordinator_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/surmise-ml/surmise/cmd/coordinator/coordinatorcmd"
	"github.com/surmise-ml/surmise/coordinator"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

// rawBytes is a codec whose messages are bytes, so that a client can send what no message is.
type rawBytes struct{}

func (rawBytes) Name() string { return "proto" }

func (rawBytes) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (rawBytes) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

// methods are all methods of our services, by name.
func methods() []protoreflect.MethodDescriptor {
	var all []protoreflect.MethodDescriptor
	protoregistry.GlobalFiles.RangeFilesByPackage("surmise.v1", func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				all = append(all, service.Methods().Get(j))
			}
		}
		return true
	})
	slices.SortFunc(all, func(a, b protoreflect.MethodDescriptor) int {
		return strings.Compare(string(a.FullName()), string(b.FullName()))
	})
	return all
}

// targets is a coordinator with jobs in it, for messages that name some.
func targets(t testing.TB) (s *server, names []string) {
	s = start(t, func(c *coordinator.Config) {
		c.Comparer, c.Logger = coordinatorcmd.Comparer{}, slog.New(slog.DiscardHandler)
	})
	for range 3 {
		names = append(names, s.submit(train()).Name)
	}
	w := s.ready("fuzzed")
	l := w.lease()
	w.beat(l.Lease, nil)
	w.done(l.Lease)
	w.settled(surmisev1.JobState_SUCCEEDED)
	w.cut()
	return s, names
}

// call makes a call with these messages and returns how it ended. A call that waits for what does not come is left.
func (s *server) call(method protoreflect.MethodDescriptor, messages ...[]byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if method.IsStreamingServer() || method.Name() == "RankContinuations" { // they wait for events
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, 10*time.Millisecond)
		defer stop()
	}
	stream, err := s.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true},
		fmt.Sprintf("/%s/%s", method.Parent().FullName(), method.Name()), grpc.ForceCodecV2(rawBytes{}))
	if err != nil {
		return err
	}
	for _, m := range messages {
		if err := stream.SendMsg(m); err != nil {
			break // RecvMsg has the reason
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		var answer []byte
		if err := stream.RecvMsg(&answer); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// fault says what is wrong with how a call ended: whatever a caller sends is the caller's fault, and says of which field.
func fault(err error) string {
	st := status.Convert(err)
	switch st.Code() {
	case codes.OK, codes.NotFound, codes.FailedPrecondition, codes.OutOfRange, codes.AlreadyExists, codes.ResourceExhausted,
		codes.DeadlineExceeded, codes.Aborted:
		return ""
	case codes.InvalidArgument:
		for _, d := range st.Details() {
			bad, ok := d.(*errdetails.BadRequest)
			if !ok {
				continue
			}
			for _, v := range bad.FieldViolations {
				if v.Field == "" || v.Description == "" {
					return fmt.Sprintf("a violation without field or description: %v", st)
				}
			}
			if len(bad.FieldViolations) > 0 {
				return ""
			}
		}
		return fmt.Sprintf("INVALID_ARGUMENT without a BadRequest: %v", st)
	}
	return fmt.Sprintf("%s: %s", st.Code(), st.Message())
}

// mutator changes messages. All that it draws comes from its seed.
type mutator struct {
	*rand.Rand
	names []string // of jobs that there are
}

func (m mutator) pick(from ...string) string { return from[m.IntN(len(from))] }

// mutate changes a field of a message, or of one inside.
func (m mutator) mutate(message protoreflect.Message, depth int) {
	fields := message.Descriptor().Fields()
	if fields.Len() == 0 {
		return
	}
	field := fields.Get(m.IntN(fields.Len()))
	if depth > 0 && m.IntN(4) > 0 { // rather one that is there
		var set []protoreflect.FieldDescriptor
		message.Range(func(f protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
			set = append(set, f)
			return true
		})
		if len(set) > 0 {
			field = set[m.IntN(len(set))]
		}
	}
	if m.IntN(12) == 0 {
		message.Clear(field)
		return
	}
	switch {
	case field.IsMap():
		entries := message.Mutable(field).Map()
		for range m.size() {
			entries.Set(m.scalar(field.MapKey()).MapKey(), m.value(field.MapValue(), entries.NewValue, depth))
		}
	case field.IsList():
		list := message.Mutable(field).List()
		for range m.size() {
			list.Append(m.value(field, list.NewElement, depth))
		}
	case field.Message() != nil:
		m.inside(message.Mutable(field).Message(), depth)
	default:
		message.Set(field, m.scalar(field))
	}
}

// size is how many elements to add: mostly few, sometimes more than any field takes.
func (m mutator) size() int {
	if m.IntN(50) == 0 {
		return 100
	}
	return 1 + m.IntN(3)
}

func (m mutator) inside(message protoreflect.Message, depth int) {
	for range 1 + m.IntN(3) {
		if depth > 0 {
			m.mutate(message, depth-1)
		}
	}
}

func (m mutator) value(field protoreflect.FieldDescriptor, empty func() protoreflect.Value, depth int) protoreflect.Value {
	if field.Message() == nil {
		return m.scalar(field)
	}
	v := empty()
	m.inside(v.Message(), depth)
	return v
}

func (m mutator) scalar(field protoreflect.FieldDescriptor) protoreflect.Value {
	integers := []int64{0, 1, -1, 2, 3, 7, 8, 16, 63, 64, 1000, 1001, 1 << 20, math.MaxInt32, math.MinInt32, math.MaxInt64, math.MinInt64}
	integer := integers[m.IntN(len(integers))]
	doubles := []float64{0, 1, -1, 0.5, 1e-300, 1e300, -1e300, math.MaxFloat64, math.SmallestNonzeroFloat64, math.NaN(), math.Inf(1), math.Inf(-1)}
	double := doubles[m.IntN(len(doubles))]
	switch field.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(m.IntN(2) == 0)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(m.IntN(10) - 1))
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(int32(integer))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(uint32(integer))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(integer)
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(uint64(integer))
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(float32(double))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(double)
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(m.text()))
	}
	return protoreflect.ValueOfString(m.text())
}

func (m mutator) text() string {
	if m.IntN(3) == 0 {
		return m.names[m.IntN(len(m.names))]
	}
	return m.pick("", "a", "jobs/", "jobs/nothing", "jobs/../jobs/x", "../../etc/passwd", "/", "clips", "tiny", "masked", "causal", "next_tubelet", "fp32",
		"\x00", "a\x00b", "\n", "\u202e", "%s%n", "' OR 1=1; --", "http://169.254.169.254/", "s3://", "file:///etc/passwd", "https://user:word@host/x",
		"eyJiIjoxfQ", "eyJiIjotMX0", "bnVsbA", "mean", "worst", strings.Repeat("x", 300), strings.Repeat("é", 5000), strconv.Itoa(m.Int()))
}

// seeds are requests from which a method's mutations start: those that pass, and the empty one.
func seeds(input protoreflect.FullName, name string) []proto.Message {
	held := &surmisev1.LeaseRef{Job: name, Epoch: 1}
	switch input {
	case "surmise.v1.SubmitJobRequest":
		ranked := &surmisev1.RankSpec{Model: "m", Sets: []*surmisev1.RankSet{{Context: "a.mp4", Make: "speed"}}}
		masked := train()
		masked.GetTrain().Mask, masked.GetTrain().Model = &surmisev1.MaskSpec{Blocks: []*surmisev1.MaskBlocks{{}}}, &surmisev1.ModelSpec{}
		masked.GetTrain().Sampling, masked.GetTrain().Optimizer = &surmisev1.SamplingSpec{}, &surmisev1.OptimizerSpec{}
		return []proto.Message{train(), masked, score("model"), score(name), &surmisev1.SubmitJobRequest{Spec: &surmisev1.SubmitJobRequest_Rank{Rank: ranked}}}
	case "surmise.v1.GetJobRequest":
		return []proto.Message{&surmisev1.GetJobRequest{Name: name}}
	case "surmise.v1.CancelJobRequest":
		return []proto.Message{&surmisev1.CancelJobRequest{Name: name}}
	case "surmise.v1.WatchJobRequest":
		return []proto.Message{&surmisev1.WatchJobRequest{Name: name}}
	case "surmise.v1.GetScoresRequest":
		return []proto.Message{&surmisev1.GetScoresRequest{Name: name}}
	case "surmise.v1.CompareScoresRequest":
		return []proto.Message{&surmisev1.CompareScoresRequest{Names: []string{name}}}
	case "surmise.v1.RankContinuationsRequest":
		return []proto.Message{&surmisev1.RankContinuationsRequest{Spec: &surmisev1.RankSpec{Model: "m", Sets: []*surmisev1.RankSet{{Context: "a.mp4", Make: "speed"}}}}}
	case "surmise.v1.SubmitSweepRequest":
		return []proto.Message{&surmisev1.SubmitSweepRequest{
			Spec:    &surmisev1.SubmitSweepRequest_Train{Train: train().GetTrain()},
			Samples: 2, Seeds: []uint64{1, 2}, Halving: &surmisev1.Halving{}, Collapse: &surmisev1.CollapseRule{}, Metric: &surmisev1.SweepMetric{},
			Parameters: []*surmisev1.SweepParameter{{Path: "train.steps"}, {Path: "train.optimizer.learning_rate"}},
		}}
	case "surmise.v1.AttachRequest":
		say := func(m *surmisev1.AttachRequest) proto.Message { return m }
		return []proto.Message{
			say(&surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Hello{Hello: &surmisev1.Hello{Name: "fuzzed"}}}),
			say(&surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Ready{Ready: &surmisev1.Ready{}}}),
			say(&surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Heartbeat{Heartbeat: &surmisev1.Heartbeat{Lease: held, Progress: &surmisev1.Progress{Loss: 1}}}}),
			say(&surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Checkpoint{Checkpoint: &surmisev1.CheckpointPublished{Lease: held, Checkpoint: &surmisev1.Checkpoint{Step: 1, Path: "/"}}}}),
			say(&surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Done{Done: &surmisev1.Done{Lease: held, Result: &surmisev1.Result{}}}}),
			say(&surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Failed{Failed: &surmisev1.Failed{Lease: held, Reason: "r", Blame: surmisev1.Blame_BLAME_JOB}}}),
			say(&surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_HandedBack{HandedBack: &surmisev1.HandedBack{Lease: held, Reason: "r"}}}),
		}
	}
	return nil
}

// message is a mutation of one of the method's seeds, or of nothing.
func (m mutator) message(t testing.TB, input protoreflect.MessageDescriptor) proto.Message {
	from := seeds(input.FullName(), m.names[m.IntN(len(m.names))])
	kind, err := protoregistry.GlobalTypes.FindMessageByName(input.FullName())
	if err != nil {
		t.Fatal(err)
	}
	message := kind.New().Interface()
	if len(from) > 0 && m.IntN(10) > 0 {
		message = from[m.IntN(len(from))]
	}
	for range m.IntN(4) {
		m.mutate(message.ProtoReflect(), 4)
	}
	return message
}

// Any message may come over the wire. None makes the coordinator panic, or answer as if the fault were its own.
func TestMutatedMessages(t *testing.T) {
	seed := uint64(1)
	if text := os.Getenv("SURMISE_TEST_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("seed %d (SURMISE_TEST_SEED)", seed)
	s, names := targets(t)
	m := mutator{rand.New(rand.NewPCG(seed, 0)), names}
	const perMethod = 200
	got := map[string]map[codes.Code]int{}
	for _, method := range methods() {
		byCode := map[codes.Code]int{}
		got[string(method.Name())] = byCode
		for i := range perMethod {
			var sent []proto.Message
			if method.IsStreamingClient() {
				sent = append(sent, seeds(method.Input().FullName(), names[0])[:i%2]...) // hello, half the time
				for range m.IntN(4) {
					sent = append(sent, m.message(t, method.Input()))
				}
			}
			sent = append(sent, m.message(t, method.Input()))
			var wire [][]byte
			for _, message := range sent {
				bytes, err := proto.Marshal(message)
				if err != nil {
					t.Fatal(err)
				}
				if m.IntN(50) == 0 && len(bytes) > 0 { // no message at all
					bytes[m.IntN(len(bytes))] ^= byte(1 + m.IntN(255))
				}
				wire = append(wire, bytes)
			}
			err := s.call(method, wire...)
			byCode[status.Code(err)]++
			if problem := fault(err); problem != "" {
				for _, message := range sent {
					t.Logf("sent %.2000s", prototext.Format(message))
				}
				t.Errorf("%s, message %d: %s", method.FullName(), i, problem)
			}
		}
	}
	for method, byCode := range got {
		t.Logf("%s: %v", method, byCode)
	}
	if got["SubmitJob"][codes.OK] < perMethod/10 || got["SubmitJob"][codes.InvalidArgument] < perMethod/10 {
		t.Errorf("SubmitJob was answered %v: the mutations do not reach both sides of the checks", got["SubmitJob"])
	}
	s.wantState(names[0], surmisev1.JobState_SUCCEEDED) // what has ended stays so, whatever is said of it
}

// FuzzMessages sends bytes to any method.
func FuzzMessages(f *testing.F) {
	s, names := targets(f)
	m := mutator{rand.New(rand.NewPCG(1, 0)), names}
	all := methods()
	for i, method := range all {
		for range 3 {
			bytes, err := proto.Marshal(m.message(f, method.Input()))
			if err != nil {
				f.Fatal(err)
			}
			if len(bytes) < 10_000 {
				f.Add(uint8(i), bytes)
			}
		}
	}
	f.Add(uint8(0), []byte("\xff\xff\xff"))
	f.Add(uint8(0), []byte("\x1a\x02\xff\xfe")) // request_id, no UTF-8
	f.Fuzz(func(t *testing.T, method uint8, bytes []byte) {
		if problem := fault(s.call(all[int(method)%len(all)], bytes)); problem != "" {
			t.Error(problem)
		}
	})
}
