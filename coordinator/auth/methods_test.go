package auth

import (
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/health/grpc_health_v1"
	_ "google.golang.org/grpc/reflection/grpc_reflection_v1"
	_ "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

// served are the packages whose services a coordinator serves.
var served = []protoreflect.FullName{"surmise.v1", "grpc.health.v1", "grpc.reflection.v1", "grpc.reflection.v1alpha"}

// Every method has a rule, and every rule a method: a new method is closed until someone has thought of it.
func TestEveryMethodHasARule(t *testing.T) {
	methods := map[string]bool{}
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		if !slices.Contains(served, file.Package()) {
			return true
		}
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				methods["/"+string(service.FullName())+"/"+string(service.Methods().Get(j).Name())] = true
			}
		}
		return true
	})
	if !methods[surmisev1.WorkerService_Attach_FullMethodName] {
		t.Fatalf("methods found: %v", methods)
	}
	for method := range methods {
		if rule, ok := rules[method]; !ok {
			t.Errorf("%s has no rule in methods.go", method)
		} else if rule.Open == (len(rule.Roles) > 0) {
			t.Errorf("%s is open and has roles, or neither", method)
		}
	}
	for method := range rules {
		if !methods[method] {
			t.Errorf("the rule of %s has no method", method)
		}
	}
}

func TestAllow(t *testing.T) {
	const (
		submit  = surmisev1.JobService_SubmitJob_FullMethodName
		list    = surmisev1.JobService_ListJobs_FullMethodName
		attach  = surmisev1.WorkerService_Attach_FullMethodName
		health  = "/grpc.health.v1.Health/Check"
		unknown = "/surmise.v1.JobService/DropEverything"
	)
	for role, want := range map[Role][]string{
		Viewer:    {list, health},
		Submitter: {submit, list, health},
		Worker:    {attach, health},
		Admin:     {submit, list, attach, health},
		"":        {health},
	} {
		for _, method := range []string{submit, list, attach, health, unknown} {
			err := Allow(method, Identity{Role: role, Owner: "x"})
			if allowed := slices.Contains(want, method); allowed != (err == nil) {
				t.Errorf("%s calling %s: %v", role, method, err)
			} else if !allowed {
				if got := reason(t, err, codes.PermissionDenied); got != ReasonRoleNotAllowed {
					t.Errorf("%s calling %s: %s", role, method, got)
				}
			}
		}
	}
}

func TestMayChange(t *testing.T) {
	for _, c := range []struct {
		who   Identity
		owner string
		want  bool
	}{
		{Identity{Role: Submitter, Owner: "a"}, "a", true},
		{Identity{Role: Submitter, Owner: "a"}, "b", false},
		{Identity{Role: Submitter, Owner: "a"}, "", false},
		{Identity{Role: Submitter}, "", false},
		{Identity{Role: Viewer, Owner: "a"}, "a", false},
		{Identity{Role: Worker, Owner: "a"}, "a", false},
		{Identity{Role: Admin, Owner: "r"}, "a", true},
		{Anonymous, "a", true},
		{Identity{}, "", false},
	} {
		if got := c.who.MayChange(c.owner); got != c.want {
			t.Errorf("%v changing what %q owns: %v", c.who, c.owner, got)
		}
	}
}
