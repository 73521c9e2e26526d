package auth

import (
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

// Rule says who may call a method.
type Rule struct {
	Roles   []Role // admin may call everything and is not listed
	Open    bool   // anyone may call it, known or not
	Changes bool   // it changes something: every call is audited
}

var (
	read   = Rule{Roles: []Role{Viewer, Submitter}}
	change = Rule{Roles: []Role{Submitter}, Changes: true}
	work   = Rule{Roles: []Role{Worker}, Changes: true}
	// A load balancer asks whether the coordinator is well and is told nothing else.
	open = Rule{Open: true}
	// Descriptions of the API, for grpcurl.
	describe = Rule{Roles: []Role{Viewer, Submitter, Worker}}
)

// rules is every method there is. One that is missing is closed to all.
var rules = map[string]Rule{
	surmisev1.JobService_SubmitJob_FullMethodName: change,
	surmisev1.JobService_CancelJob_FullMethodName: change,
	surmisev1.JobService_GetJob_FullMethodName:    read,
	surmisev1.JobService_ListJobs_FullMethodName:  read,
	surmisev1.JobService_WatchJob_FullMethodName:  read,

	surmisev1.PlausibilityService_CompareScores_FullMethodName:     read,
	surmisev1.PlausibilityService_GetScores_FullMethodName:         read,
	surmisev1.PlausibilityService_RankContinuations_FullMethodName: change, // submits a job

	surmisev1.LogService_ReadJobLog_FullMethodName: read,

	surmisev1.SweepService_SubmitSweep_FullMethodName: change,
	surmisev1.SweepService_CancelSweep_FullMethodName: change,
	surmisev1.SweepService_GetSweep_FullMethodName:    read,
	surmisev1.SweepService_ListSweeps_FullMethodName:  read,

	surmisev1.WorkerService_Attach_FullMethodName: work,

	healthv1.Health_Check_FullMethodName: open,
	healthv1.Health_List_FullMethodName:  open,
	healthv1.Health_Watch_FullMethodName: open,

	"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo":      describe,
	"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": describe,
}

// RuleOf is the rule of a method; the zero Rule, by which nobody may call it, when there is none.
func RuleOf(method string) Rule { return rules[method] }

// Allow refuses a caller whose role may not call the method, with PERMISSION_DENIED.
func Allow(method string, caller Identity) error {
	rule, known := rules[method]
	if rule.Open || known && (caller.Role == Admin || slices.Contains(rule.Roles, caller.Role)) {
		return nil
	}
	return Refusal(codes.PermissionDenied, ReasonRoleNotAllowed,
		fmt.Sprintf("role %s may not call %s", caller.Role, method))
}
