package coordinator

import (
	"fmt"
	"maps"
	"math"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/surmise-ml/surmise/coordinator/auth"
	"github.com/surmise-ml/surmise/coordinator/queue"
)

// Limits bounds what callers may ask for. The zero value of a field has the meaning stated.
type Limits struct {
	// CallsPerSecond of one caller, and messages a second of one stream; 0: no limit. A caller is a token or a certificate,
	// and where there is neither, an address. Calls above it are refused, messages wait.
	CallsPerSecond float64
	Burst          int // calls at once after a pause; 0: a second's worth, at least 1
	MessageBytes   int // of one message to the coordinator; 0: 4 MiB
	OpenJobs       int // jobs of one owner that have not ended; 0: no limit
	// Priority bounds the priority that a caller may give to a job: by owner, or else by role. Those that are in neither
	// may give any. Without anything that tells callers apart there is nothing to look up.
	Priority PriorityLimits
}

// PriorityLimits are the highest priorities that callers may ask for.
type PriorityLimits struct {
	Owners map[string]int
	Roles  map[auth.Role]int
}

// of is the highest priority for a caller; bounded is false when there is none.
func (p PriorityLimits) of(caller auth.Identity) (most int, bounded bool) {
	if most, ok := p.Owners[caller.Owner]; ok && caller.Owner != "" {
		return most, true
	}
	most, ok := p.Roles[caller.Role]
	return most, ok && caller != auth.Anonymous
}

// check refuses a job of a caller who asks for more.
func (p PriorityLimits) check(caller auth.Identity, priority int) error {
	most, bounded := p.of(caller)
	if !bounded || priority <= most {
		return nil
	}
	text := fmt.Sprintf("scheduling.priority %d: %s %q may ask for at most %d", priority, caller.Role, caller.Owner, most)
	return auth.Refusal(codes.PermissionDenied, ReasonPriority, text)
}

// Reasons of refusals, in their google.rpc.ErrorInfo.
const (
	ReasonRateLimited = "RATE_LIMITED"
	ReasonOpenJobs    = "TOO_MANY_OPEN_JOBS"
	ReasonNotOwner    = "NOT_OWNER"
	ReasonPriority    = "PRIORITY_TOO_HIGH"
	ReasonAudit       = "AUDIT_LOG_UNAVAILABLE"
)

func (l Limits) check() error {
	switch {
	case l.CallsPerSecond < 0 || math.IsNaN(l.CallsPerSecond) || math.IsInf(l.CallsPerSecond, 0):
		return fmt.Errorf("Limits.CallsPerSecond %g: want a finite number, not negative", l.CallsPerSecond)
	case l.Burst < 0:
		return fmt.Errorf("Limits.Burst %d is negative", l.Burst)
	case l.MessageBytes < 0:
		return fmt.Errorf("Limits.MessageBytes %d is negative", l.MessageBytes)
	case l.OpenJobs < 0:
		return fmt.Errorf("Limits.OpenJobs %d is negative", l.OpenJobs)
	}
	for _, most := range slices.Concat(slices.Collect(maps.Values(l.Priority.Owners)), slices.Collect(maps.Values(l.Priority.Roles))) {
		if most < -queue.MaxPriority || most > queue.MaxPriority {
			return fmt.Errorf("Limits.Priority %d: want %d to %d", most, -queue.MaxPriority, queue.MaxPriority)
		}
	}
	return nil
}

// maxCallers bounds the callers that are remembered.
const maxCallers = 10_000

// callerRates holds each caller to a rate.
type callerRates struct {
	rate  rate.Limit
	burst int

	mu      sync.Mutex
	buckets map[string]*rate.Limiter // guarded by mu; by caller
}

func newCallerRates(l Limits) *callerRates {
	if l.CallsPerSecond == 0 {
		return nil
	}
	burst := l.Burst
	if burst == 0 {
		burst = int(max(1, min(l.CallsPerSecond, math.MaxInt32)))
	}
	return &callerRates{rate: rate.Limit(l.CallsPerSecond), burst: burst, buckets: map[string]*rate.Limiter{}}
}

// bucket is a full one; nil without a limit.
func (c *callerRates) bucket() *rate.Limiter {
	if c == nil {
		return nil
	}
	return rate.NewLimiter(c.rate, c.burst)
}

// of is the caller's bucket.
func (c *callerRates) of(caller string, now time.Time) *rate.Limiter {
	c.mu.Lock()
	defer c.mu.Unlock()
	bucket := c.buckets[caller]
	if bucket == nil {
		if len(c.buckets) >= maxCallers {
			c.forget(now)
		}
		bucket = c.bucket()
		c.buckets[caller] = bucket
	}
	return bucket
}

// forget makes room: callers whose bucket is full again lose nothing, and there is always one that may go.
func (c *callerRates) forget(now time.Time) {
	for caller, bucket := range c.buckets {
		if bucket.TokensAt(now) >= float64(c.burst) {
			delete(c.buckets, caller)
		}
	}
	for caller := range c.buckets {
		if len(c.buckets) < maxCallers {
			return
		}
		delete(c.buckets, caller)
	}
}

// admit refuses a call beyond the rate.
func (c *callerRates) admit(caller string, now time.Time) error {
	if c == nil {
		return nil
	}
	call := c.of(caller, now).ReserveN(now, 1)
	wait := call.DelayFrom(now)
	if wait == 0 {
		return nil
	}
	call.CancelAt(now)
	return auth.Refusal(codes.ResourceExhausted, ReasonRateLimited,
		fmt.Sprintf("more than %g calls a second; try again in %v", float64(c.rate), wait.Round(time.Millisecond)),
		&errdetails.RetryInfo{RetryDelay: durationpb.New(wait)})
}

// callerKey is what a caller's rate is kept under: who it is, or, of those who are nobody in particular, where it comes
// from. The 64-bit networks of IPv6 count as one address, since one machine may have them all.
func callerKey(caller auth.Identity, peer net.Addr) string {
	if caller.ID != "" && caller != auth.Anonymous {
		return caller.ID
	}
	if peer == nil {
		return "address/none"
	}
	at, err := netip.ParseAddrPort(peer.String())
	if err != nil {
		return "address/" + peer.Network()
	}
	address := at.Addr().Unmap().WithZone("")
	if address.Is6() {
		if network, err := address.Prefix(64); err == nil {
			return "address/" + network.String()
		}
	}
	return "address/" + address.String()
}
