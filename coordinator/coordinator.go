// Package coordinator takes jobs over gRPC, keeps them in a store, and gives them to the workers that attach.
//
// A sweep is many jobs: sweeps.go takes it, package sweep makes its children.
//
// A job passes through: jobs.go (submit, check, store) → dispatch.go (lease to a free worker) → attach.go (what the
// worker says, each word stored before it is answered) → watch.go (the events that watchers see). What may happen to a
// job, and when, is decided in package queue alone.
//
// State lives in the store only: a coordinator that is killed and started again knows all that it ever answered, and
// workers attach again and go on.
package coordinator

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/surmise-ml/surmise/artifact"
	"github.com/surmise-ml/surmise/coordinator/auth"
	"github.com/surmise-ml/surmise/coordinator/joblog"
	"github.com/surmise-ml/surmise/coordinator/queue"
	"github.com/surmise-ml/surmise/coordinator/sweep"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

// Store keeps jobs. Each change is durable when the call returns, and decided by queue.Apply. Leases follow the store's
// clock. Package queuetest holds what is expected of it.
type Store interface {
	// Submit appends a job to the queue, or returns the job that has the same request id, with created false.
	Submit(context.Context, queue.Submission) (job queue.Job, created bool, err error)
	// Get returns a job, or queue.ErrNotFound.
	Get(ctx context.Context, id string) (queue.Job, error)
	// List returns a page of jobs, newest first, and whether there are more.
	List(context.Context, queue.Filter) (jobs []queue.Job, more bool, err error)
	// Writable is nil when changes can be stored.
	Writable(context.Context) error
	// Place says where a queued job stands.
	Place(context.Context, queue.Job) (queue.Place, error)
	// Pace is how long recent jobs took on average, 0 for not known, and how many are held by workers now.
	Pace(context.Context) (mean time.Duration, held int, err error)
	// Lease gives each of these free workers the job that it serves next; those for which there is none are left out.
	Lease(ctx context.Context, workers []queue.Worker, lease time.Duration) ([]queue.Job, error)
	// Preempt makes jobs that these workers hold give way to queued ones of higher priority.
	Preempt(ctx context.Context, workers []queue.Worker) (moved []queue.Moved, again time.Duration, err error)
	// HeldBy returns the jobs that a worker holds.
	HeldBy(ctx context.Context, worker string) ([]queue.Job, error)
	// Apply moves a job on by an event.
	Apply(ctx context.Context, id string, e queue.Event) (queue.Job, queue.Effects, error)
	// ExpireDue takes back the leases, and stops the jobs whose deadlines, have run out, and says how long until there is
	// something to do again; negative: nothing.
	ExpireDue(context.Context) (moved []queue.Moved, next time.Duration, err error)
	// Demand returns what waits for a worker, counting no more jobs of a kind than limit, and who is busy.
	Demand(ctx context.Context, limit int) (queue.Demand, error)
	// Events returns the events of a job after a revision, oldest first.
	Events(ctx context.Context, id string, after int64, limit int) ([]queue.LogEntry, error)
	// Logged lets other coordinators know that there are new log lines of a job.
	Logged(id string)
	// Listen tells of what other coordinators do to the same jobs, until ctx ends; it returns nil then.
	Listen(ctx context.Context, changed func(queue.Change)) error
	SweepStore
	Close() error
}

// Comparer reads score files. It speaks in messages of the API because nothing here looks inside them.
type Comparer interface {
	// Compare compares the score files of the jobs that a request names, in its order. reference is that of the job it names
	// as such; nil for none.
	Compare(ctx context.Context, files []ScoreFile, reference *ScoreFile, req *surmisev1.CompareScoresRequest) (*surmisev1.CompareScoresResponse, error)
	// Scores passes the videos of one score file to each, in order, until each returns an error, which it returns.
	Scores(ctx context.Context, path string, each func(*surmisev1.GetScoresResponse) error) error
}

// ScoreFile is the "scores" artifact of a job.
type ScoreFile struct {
	Source string // "jobs/{id}"
	Path   string
}

// Launching has workers started as jobs wait for them; *launch.Reconciler is one.
type Launching interface {
	// Wake says that a job waits for a worker. It does not wait.
	Wake()
	// Explain says what a job with these needs waits for, as of the last look; "" when there is nothing to say.
	Explain(queue.Needs) string
}

// Clock says when to look for leases that have run out, and for watchers that are stuck, and the time of rates and of
// the audit log. Whether a lease has run out is for the store's own clock to say.
type Clock interface {
	Now() time.Time
	After(time.Duration) <-chan time.Time
}

// Config says how a Server works. The zero value of a field has the meaning stated.
type Config struct {
	Store         Store              // required; the caller closes it, after Serve
	ArtifactDir   string             // where attempts publish, shared with the workers, and where their log is kept; required
	Artifacts     *artifact.Store    // where attempts publish instead; nil: ArtifactDir. The caller closes it, after Serve
	ArtifactCache *artifact.Cache    // of what is read of Artifacts; nil: one of 1 GiB in ArtifactDir
	Retention     artifact.Retention // of checkpoints; zero: DefaultKeep
	LeaseDuration time.Duration      // 0: 30 s
	Clock         Clock              // nil: the system's
	Logger        *slog.Logger       // nil: slog.Default()
	Comparer      Comparer           // nil: PlausibilityService answers UNIMPLEMENTED
	// Owner says whose the jobs of a call are; nil: the caller's, or without Auth what the request says.
	Owner    func(context.Context) string
	Observer Observer      // nil: nobody is told what happens
	Launch   Launching     // nil: nobody starts workers
	NewID    func() string // draws a job id, [a-z0-9-]{1,63}; nil: 60 random bits

	TracerProvider trace.TracerProvider // of the spans of jobs; nil: OpenTelemetry's global one

	TLS    *tls.Config         // nil: plaintext, for loopback
	Auth   *auth.Authenticator // nil: everyone is auth.Anonymous and may do everything
	Limits Limits
	Audit  AuditSink // nil: no audit log; the caller closes it, after Serve
	Local  *Local    // the way in for a worker of this process; nil: none
}

// DefaultLeaseDuration is long against a garbage collection or a slow disk, short against losing a worker's time.
const DefaultLeaseDuration = 30 * time.Second

const (
	// maxMessageBytes is gRPC's customary limit, which clients such as grpcurl hold as well.
	maxMessageBytes = 4 << 20
	// maxHeaderBytes is far above what a call's metadata takes.
	maxHeaderBytes = 64 << 10
	// maxStreams is the calls that one connection may have open.
	maxStreams = 1000
	// handshakePatience is how long a connection may take before its first call.
	handshakePatience = 10 * time.Second // a stop waits as long
	// stopPatience is how long a graceful stop waits for calls under way.
	stopPatience = 5 * time.Second
)

// Server is a coordinator.
type Server struct {
	surmisev1.UnimplementedJobServiceServer
	surmisev1.UnimplementedLogServiceServer
	surmisev1.UnimplementedPlausibilityServiceServer
	surmisev1.UnimplementedSweepServiceServer
	surmisev1.UnimplementedWorkerServiceServer

	store       Store
	artifactDir string // absolute
	shared      bool   // attempts publish there
	artifacts   *artifact.Store
	cache       *artifact.Cache // nil when shared
	cacheClaim  io.Closer       // on its folder; nil when it was given, or shared
	retention   artifact.Retention
	tidier      *tidier
	lease       time.Duration
	clock       Clock
	log         *slog.Logger
	comparer    Comparer
	comparing   chan struct{} // holds a token while scores are compared
	observer    Observer
	launch      Launching // nil: none
	traces      trace.TracerProvider
	tracer      trace.Tracer
	newID       func() string
	owner       func(context.Context) string // nil: what the request says

	tls          *tls.Config
	auth         *auth.Authenticator
	rates        *callerRates
	audit        *auditLog
	messageBytes int
	openJobs     int // of one owner; 0: any number
	priority     PriorityLimits
	local        *Local // nil: none

	logs        *joblog.Store
	logWatchers watchers

	watchers watchers
	workers  workers
	sweeps   sweeps
	stopping chan struct{}  // closed when Serve stops: ends every stream
	streams  sync.WaitGroup // goroutines that a stream's handler could not wait for
}

// New returns a coordinator that Serve runs once.
func New(cfg Config) (*Server, error) {
	if cfg.Store == nil {
		return nil, errors.New("coordinator: Store is nil")
	}
	if cfg.ArtifactDir == "" {
		return nil, errors.New("coordinator: ArtifactDir is empty")
	}
	artifactDir, err := filepath.Abs(cfg.ArtifactDir)
	if err != nil {
		return nil, fmt.Errorf("coordinator: ArtifactDir %q: %w", cfg.ArtifactDir, err)
	}
	if cfg.LeaseDuration < 0 {
		return nil, fmt.Errorf("coordinator: LeaseDuration %v is negative", cfg.LeaseDuration)
	}
	if err := cfg.Limits.check(); err != nil {
		return nil, fmt.Errorf("coordinator: %w", err)
	}
	if cfg.Retention == (artifact.Retention{}) {
		cfg.Retention.Last = DefaultKeep
	}
	if err := cfg.Retention.Check(); err != nil {
		return nil, fmt.Errorf("coordinator: Retention: %w", err)
	}
	s := &Server{
		store:       cfg.Store,
		artifactDir: artifactDir,
		shared:      cfg.Artifacts == nil,
		artifacts:   cfg.Artifacts,
		cache:       cfg.ArtifactCache,
		retention:   cfg.Retention,
		tidier:      newTidier(),
		lease:       cfg.LeaseDuration,
		clock:       cfg.Clock,
		log:         cfg.Logger,
		comparer:    cfg.Comparer,
		comparing:   make(chan struct{}, 1),
		observer:    cfg.Observer,
		launch:      cfg.Launch,
		traces:      cfg.TracerProvider,
		newID:       cfg.NewID,

		tls:          cfg.TLS,
		auth:         cfg.Auth,
		rates:        newCallerRates(cfg.Limits),
		messageBytes: cfg.Limits.MessageBytes,
		openJobs:     cfg.Limits.OpenJobs,
		priority:     cfg.Limits.Priority,
		local:        cfg.Local,

		owner:       cfg.Owner,
		logs:        joblog.New(filepath.Join(artifactDir, "jobs"), 0),
		logWatchers: watchers{byJob: map[string]map[chan struct{}]bool{}},
		watchers:    watchers{byJob: map[string]map[chan struct{}]bool{}},
		workers:     workers{byName: map[string]*session{}, wake: make(chan struct{}, 1)},
		sweeps:      sweeps{rules: map[string]sweep.Rules{}, rungs: map[string]int{}},
		stopping:    make(chan struct{}),
	}
	if s.lease == 0 {
		s.lease = DefaultLeaseDuration
	}
	if s.clock == nil {
		s.clock = systemClock{}
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	if s.owner == nil && s.auth != nil {
		s.owner = func(ctx context.Context) string { return auth.FromContext(ctx).Owner }
	}
	if s.messageBytes == 0 {
		s.messageBytes = maxMessageBytes
	}
	s.audit = newAuditLog(cfg.Audit, s.log)
	if s.traces == nil {
		s.traces = otel.GetTracerProvider()
	}
	s.tracer = s.traces.Tracer(tracerName)
	if s.observer == nil {
		s.observer = unobserved{}
	}
	if s.newID == nil {
		s.newID = func() string { return strings.ToLower(rand.Text()[:12]) }
	}
	if s.shared {
		s.artifacts, err = artifact.OpenFolder(artifactDir, artifact.Options{Logger: s.log})
	} else if s.cache == nil {
		err = s.openCache(filepath.Join(artifactDir, "cache"))
	}
	if err != nil {
		return nil, fmt.Errorf("coordinator: %w", err)
	}
	return s, nil
}

// openCache opens a cache of this coordinator's own: several may share the folder of artifacts.
func (s *Server) openCache(dir string) error {
	dir, claim, err := artifact.Claim(dir)
	if err != nil {
		return err
	}
	// Beside the claim, which would be an entry like others, and the first to make room.
	if s.cache, err = artifact.OpenCache(filepath.Join(dir, "models"), 1<<30, s.clock.Now); err != nil {
		return errors.Join(err, claim.Close())
	}
	s.cacheClaim = claim
	return nil
}

// Serve answers on l, which it closes, until ctx ends, and then stops gracefully: calls under way finish, streams end
// with UNAVAILABLE, leases stay with their workers. It returns nil after a graceful stop.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	transport := insecure.NewCredentials()
	if s.tls != nil {
		transport = credentials.NewTLS(s.tls)
	}
	codec := newRequestCodec()
	server := grpc.NewServer(
		grpc.ForceServerCodecV2(codec),
		grpc.Creds(localOrRemote{transport, s.log, rate.NewLimiter(1, 10)}),
		grpc.ConnectionTimeout(handshakePatience),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxHeaderListSize(maxHeaderBytes),
		grpc.MaxRecvMsgSize(s.messageBytes),
		grpc.MaxSendMsgSize(maxMessageBytes),
		grpc.WaitForHandlers(true),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.StatsHandler(traceCalls(s.traces)),
		grpc.ChainUnaryInterceptor(tellTime, codec.readUnary, s.logUnary, s.recoverUnary(), s.admitUnary, checkUnary),
		grpc.ChainStreamInterceptor(codec.readStream, s.logStream, s.recoverStream(), s.admitStream, checkStream),
	)
	surmisev1.RegisterJobServiceServer(server, s)
	surmisev1.RegisterLogServiceServer(server, s)
	surmisev1.RegisterPlausibilityServiceServer(server, s)
	surmisev1.RegisterSweepServiceServer(server, s)
	surmisev1.RegisterWorkerServiceServer(server, s)
	healthServer := health.NewServer()
	healthv1.RegisterHealthServer(server, healthServer)
	services := append(slices.Collect(maps.Keys(server.GetServiceInfo())), "")
	for _, name := range services {
		healthServer.SetServingStatus(name, healthv1.HealthCheckResponse_SERVING)
	}
	reflection.Register(server)

	dispatchCtx, stopDispatch := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { s.dispatch(dispatchCtx) })
	running.Go(func() { s.listen(dispatchCtx) })
	running.Go(func() { s.tidy(dispatchCtx) })
	running.Go(func() { s.reportHealth(dispatchCtx, healthServer, services) })
	running.Go(func() {
		<-dispatchCtx.Done()
		healthServer.Shutdown()
		close(s.stopping)
		forced := time.AfterFunc(stopPatience, server.Stop)
		server.GracefulStop()
		forced.Stop()
	})
	if s.local != nil {
		running.Go(func() { _ = server.Serve(s.local) }) // ends when the other Serve does
	}
	s.log.Info("coordinator serves", "address", l.Addr().String(), "artifacts", s.artifacts.URL(), "lease", s.lease)

	err := server.Serve(l)
	stopDispatch()
	running.Wait()
	s.streams.Wait()
	if s.cacheClaim != nil {
		_ = s.cacheClaim.Close() // it ends with the process in any case
	}
	if ctx.Err() != nil || errors.Is(err, grpc.ErrServerStopped) {
		s.log.Info("coordinator stopped")
		return nil
	}
	return fmt.Errorf("serving on %s: %w", l.Addr(), err)
}

type systemClock struct{}

func (systemClock) Now() time.Time                         { return time.Now() }
func (systemClock) After(d time.Duration) <-chan time.Time { return time.After(d) }
