// A PJRT plugin for tests: it computes next to nothing and watches its caller closely. What the caller does wrong
// (objects used after their end, host memory changed during a transfer, structs of the wrong size) is written down and
// handed out by fake_violations. 
//
// It runs programs of lines such as
//     fake: f32 2x3 = add 0 1 alias 0
// one per output: element type, sizes ("scalar" for none), operation (add, copy or zero) with its arguments, and the
// argument whose memory may become the output's. A module without such lines gives zeros of the types that its function
// main declares.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- what tests set ------------------------------------------------------------------------------------------------

static struct {
  int major, minor;     // of the interface
  int entries;          // of the table of functions
  size_t grow;          // bytes that every argument struct is longer than known, as in a later version
  bool threads;         // work is done by a thread of the plugin's, later
  bool held;            // and not until this is over
  int devices;          // that the machine has
  int64_t limit;        // device memory, bytes
  char fail[128];       // function to fail
  int fail_code, fail_after;  // after so many calls of it
  char run_error[256];  // how runs end; "": well
  int run_code;
  char unknown_option[64]; // of the compiler
  bool abort_create;    // the process dies in PJRT_Client_Create, as with a broken driver
} config = {.minor = 104, .entries = 135, .devices = 1, .limit = 1 << 30, .fail_code = 13, .run_code = 13};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static char violations[1 << 16];

static void violation(const char *format, ...) {
  size_t used = strlen(violations);
  va_list args;
  va_start(args, format);
  vsnprintf(violations + used, sizeof violations - used - 1, format, args);
  va_end(args);
  strcat(violations, "\n");
}

const char *fake_violations(void) { return violations; }

// ---- objects -------------------------------------------------------------------------------------------------------

enum kind { ERROR = 1, EVENT, CLIENT, EXECUTABLE, LOADED, BUFFER, KINDS };
static const char *kind_names[] = {"", "error", "event", "client", "executable", "loaded executable", "buffer"};
static int live[KINDS];

// Objects are never freed, so that a dead one can be told from a living one.
typedef struct {
  enum kind kind;
  bool alive;
} object;

static void *new_object(enum kind kind, size_t size) {
  object *o = calloc(1, size);
  o->kind = kind;
  o->alive = true;
  live[kind]++;
  return o;
}

static bool is(void *p, enum kind kind, const char *function) {
  object *o = p;
  if (o == NULL) {
    violation("%s: no %s", function, kind_names[kind]);
  } else if (o->kind != kind) {
    violation("%s: not a %s", function, kind_names[kind]);
  } else if (!o->alive) {
    violation("%s: the %s was destroyed before", function, kind_names[kind]);
  } else {
    return true;
  }
  return false;
}

static void end_object(object *o) {
  o->alive = false;
  live[o->kind]--;
}

// fake_live counts objects that were not destroyed.
int fake_live(void) {
  pthread_mutex_lock(&lock);
  int n = 0;
  for (int k = 1; k < KINDS; k++) n += live[k];
  pthread_mutex_unlock(&lock);
  return n;
}

typedef struct {
  object o;
  int code;
  char text[512];
} error;

static error *new_error(int code, const char *format, ...) {
  error *e = new_object(ERROR, sizeof *e);
  e->code = code;
  va_list args;
  va_start(args, format);
  vsnprintf(e->text, sizeof e->text, format, args);
  va_end(args);
  return e;
}

enum { INVALID_ARGUMENT = 3, RESOURCE_EXHAUSTED = 8, UNIMPLEMENTED = 12, INTERNAL = 13 };

typedef void (*on_ready)(error *, void *);

typedef struct {
  object o;
  bool ready, registering;
  char failed[256];
  on_ready callback;
  void *argument;
} event;

typedef struct {
  object o;
  int devices;
  struct device {
    struct description {
      int id, hardware;
    } description;
    void *client;
  } device[16];
  struct device *list[16];
  int64_t in_use, peak;
} client;

enum { MAX_DIMS = 8, MAX_OUTPUTS = 256, MAX_ARGS = 512 };

typedef struct {
  int type;
  size_t ndims;
  int64_t dims[MAX_DIMS];
  char op[8];
  int in[2], alias;
} output;

typedef struct {
  object o;
  client *client;
  size_t outputs;
  output output[MAX_OUTPUTS];
  char text[1];
} loaded;

typedef struct {
  object o;
  loaded *from;
} executable;

typedef struct {
  object o;
  client *client;
  int type;
  size_t ndims, size;
  int64_t dims[MAX_DIMS];
  char *data;
  int jobs;  // that need data
  bool donated;
  char failed[256];
} buffer;

static size_t element(int type) {
  switch (type) {
    case 1: case 6: return 1;
    case 13: return 2;
    case 4: case 11: return 4;
  }
  return 0;
}

static size_t bytes(int type, size_t ndims, const int64_t *dims) {
  size_t n = element(type);
  for (size_t i = 0; i < ndims; i++) n *= dims[i];
  return n;
}

static buffer *new_buffer(client *c, int type, size_t ndims, const int64_t *dims) {
  buffer *b = new_object(BUFFER, sizeof *b);
  b->client = c;
  b->type = type;
  b->ndims = ndims;
  memcpy(b->dims, dims, ndims * sizeof *dims);
  b->size = bytes(type, ndims, dims);
  b->data = calloc(1, b->size + 1);
  c->in_use += b->size;
  if (c->in_use > c->peak) c->peak = c->in_use;
  return b;
}

// ---- work ----------------------------------------------------------------------------------------------------------

typedef struct job {
  struct job *next;
  enum { TO_DEVICE, RUN, TO_HOST, READY } what;
  event *done;
  buffer *buffer;
  const char *host;  // TO_DEVICE
  char *copy;        // TO_DEVICE of memory that may be read during the call alone: what host is
  uint64_t sum;      // of host, when the transfer was asked for
  char *dst;         // TO_HOST
  loaded *program;   // RUN
  size_t args;
  buffer *arg[MAX_ARGS];
  buffer *out[MAX_OUTPUTS];
} job;

static job *first, **last = &first;
static bool worker_runs;

static uint64_t sum_of(const char *p, size_t n) {
  uint64_t h = 1469598103934665603u;
  for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)p[i]) * 1099511628211u;
  return h;
}

// finish ends a job's event. Called without the lock, as the callback may call back.
static void finish(event *e, const char *failed) {
  pthread_mutex_lock(&lock);
  e->ready = true;
  snprintf(e->failed, sizeof e->failed, "%s", failed);
  on_ready callback = e->callback;
  void *argument = e->argument;
  error *err = callback && *failed ? new_error(config.run_code, "%s", failed) : NULL;
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&lock);
  if (callback) callback(err, argument);
}

static void run(loaded *x, job *j) {
  for (size_t o = 0; o < x->outputs; o++) {
    output *spec = &x->output[o];
    buffer *to = j->out[o];
    if (*config.run_error) snprintf(to->failed, sizeof to->failed, "%s", config.run_error);
    if (strcmp(spec->op, "zero") == 0) continue;
    buffer *a = j->arg[spec->in[0]], *b = j->arg[spec->in[1]];
    for (int i = 0; i < 2; i++) {
      buffer *in = i ? b : a;
      if (*in->failed) snprintf(to->failed, sizeof to->failed, "%s", in->failed);
    }
    if (strcmp(spec->op, "copy") == 0) {
      memcpy(to->data, a->data, to->size);
      continue;
    }
    for (size_t i = 0; i < to->size / element(to->type); i++) {
      if (to->type == 11) ((float *)to->data)[i] = ((float *)a->data)[i] + ((float *)b->data)[i];
      if (to->type == 4) ((int32_t *)to->data)[i] = ((int32_t *)a->data)[i] + ((int32_t *)b->data)[i];
    }
  }
}

// let_go frees the memory of a buffer that is destroyed and that no job needs.
static void let_go(buffer *b) {
  if (b->jobs > 0 || b->o.alive) return;
  free(b->data);
  b->data = NULL;
}

// hold counts a job at the buffers that it needs, by 1 or -1.
static void hold(job *j, int by) {
  buffer *needed[1 + MAX_ARGS + MAX_OUTPUTS];
  size_t n = 0;
  if (j->buffer) needed[n++] = j->buffer;
  for (size_t i = 0; i < j->args; i++) needed[n++] = j->arg[i];
  for (size_t i = 0; j->program && i < j->program->outputs; i++) needed[n++] = j->out[i];
  for (size_t i = 0; i < n; i++) {
    needed[i]->jobs += by;
    let_go(needed[i]);
  }
}

static void do_job(job *j) {
  char failed[256] = "";
  pthread_mutex_lock(&lock);
  switch (j->what) {
    case TO_DEVICE:
      if (sum_of(j->host, j->buffer->size) != j->sum) violation("PJRT_Client_BufferFromHostBuffer: host memory was changed before the transfer was done");
      memcpy(j->buffer->data, j->host, j->buffer->size);
      free(j->copy);
      break;
    case RUN:
      run(j->program, j);
      snprintf(failed, sizeof failed, "%s", config.run_error);
      break;
    case TO_HOST:
      memcpy(j->dst, j->buffer->data, j->buffer->size);
      snprintf(failed, sizeof failed, "%s", j->buffer->failed);
      break;
    case READY:
      snprintf(failed, sizeof failed, "%s", j->buffer->failed);
      break;
  }
  hold(j, -1);
  pthread_mutex_unlock(&lock);
  finish(j->done, failed);
  free(j);
}

static void *work(void *unused) {
  (void)unused;
  for (;;) {
    pthread_mutex_lock(&lock);
    while (first == NULL || config.held) pthread_cond_wait(&changed, &lock);
    job *j = first;
    first = j->next;
    if (first == NULL) last = &first;
    pthread_mutex_unlock(&lock);
    do_job(j);
  }
  return NULL;
}

// start gives a job to the thread, or does it, and returns the event of its end. Called with the lock.
static event *start(job *j) {
  event *done = j->done = new_object(EVENT, sizeof(event));
  hold(j, 1);
  if (!config.threads) {
    pthread_mutex_unlock(&lock);
    do_job(j);
    pthread_mutex_lock(&lock);
    return done;
  }
  if (!worker_runs) {
    pthread_t t;
    pthread_create(&t, NULL, work, NULL);
    pthread_detach(t);
    worker_runs = true;
  }
  *last = j;
  last = &j->next;
  pthread_cond_broadcast(&changed);
  return done;
}

// fake_set changes a setting.
void fake_set(const char *name, const char *value) {
  pthread_mutex_lock(&lock);
  long long n = atoll(value);
  if (!strcmp(name, "major")) config.major = n;
  else if (!strcmp(name, "minor")) config.minor = n;
  else if (!strcmp(name, "entries")) config.entries = n;
  else if (!strcmp(name, "grow")) config.grow = n;
  else if (!strcmp(name, "threads")) config.threads = n;
  else if (!strcmp(name, "held")) config.held = n;
  else if (!strcmp(name, "devices")) config.devices = n;
  else if (!strcmp(name, "limit")) config.limit = n;
  else if (!strcmp(name, "unknown_option")) snprintf(config.unknown_option, sizeof config.unknown_option, "%s", value);
  else if (!strcmp(name, "fail")) snprintf(config.fail, sizeof config.fail, "%s", value);
  else if (!strcmp(name, "fail_code")) config.fail_code = n;
  else if (!strcmp(name, "fail_after")) config.fail_after = n;
  else if (!strcmp(name, "run_error")) snprintf(config.run_error, sizeof config.run_error, "%s", value);
  else if (!strcmp(name, "run_code")) config.run_code = n;
  else if (!strcmp(name, "abort_create")) config.abort_create = n;
  else violation("fake_set: no setting %s", name);
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&lock);
}

// from_environment takes settings "name=value,name=value" for a process that no test is in.
__attribute__((constructor)) static void from_environment(void) {
  const char *given = getenv("PJRTTEST_SETTINGS");
  char copy[1024], *rest = copy, *one;
  snprintf(copy, sizeof copy, "%s", given ? given : "");
  while ((one = strsep(&rest, ","))) {
    char *value = strchr(one, '=');
    if (value) *value = 0, fake_set(one, value + 1);
  }
}

// ---- the interface -------------------------------------------------------------------------------------------------

#define HEAD size_t size; void *extension
#define END(T, field) (offsetof(T, field) + sizeof(((T *)0)->field))

// sized checks a struct of the caller's: long enough, no longer than this version's, and zero beyond what is known.
static error *sized(const char *what, void *p, size_t known) {
  size_t size = *(size_t *)p, want = known + config.grow, rounded = (known + 7) / 8 * 8;
  if (((void **)p)[1] != NULL) violation("%s: the chain of extensions is not empty", what);
  if (size < want) return new_error(INVALID_ARGUMENT, "Unexpected %s size: expected %zu, got %zu. Check installed software versions.", what, want, size);
  if (config.grow == 0 && config.minor == 104 && size > rounded) violation("%s: size %zu, want at most %zu", what, size, rounded);
  for (size_t i = rounded; config.grow > 0 && i < size; i++)
    if (((char *)p)[i]) {
      violation("%s: byte %zu, beyond what is known, is not zero", what, i);
      break;
    }
  return NULL;
}

// injected is the failure that a test asked for.
static error *injected(const char *function) {
  if (strcmp(config.fail, function)) return NULL;
  if (config.fail_after-- > 0) return NULL;
  return new_error(config.fail_code, "%s fails because a test wants it to", function);
}

// CALL begins a function: checks its arguments and takes the lock, which RETURN gives back.
#define CALL(NAME, T, LAST)                                                             \
  T *a = p;                                                                             \
  static const char *const me = "PJRT_" #NAME;                                          \
  pthread_mutex_lock(&lock);                                                            \
  error *failure = sized("PJRT_" #NAME "_Args", p, END(T, LAST));                       \
  if (failure == NULL) failure = injected(me);                                          \
  if (failure != NULL) RETURN(failure)
#define RETURN(x)                   \
  do {                              \
    error *answer_ = (x);           \
    pthread_mutex_unlock(&lock);    \
    return answer_;                 \
  } while (0);
#define NEED(OBJECT, KIND) \
  if (!is(OBJECT, KIND, me)) RETURN(new_error(INTERNAL, "%s: bad %s", me, kind_names[KIND]))

typedef struct { HEAD; void *object; } object_args;

static void error_destroy(void *p) {
  object_args *a = p;
  pthread_mutex_lock(&lock);
  if (a->object && is(a->object, ERROR, "PJRT_Error_Destroy")) end_object(a->object);
  pthread_mutex_unlock(&lock);
}

typedef struct { HEAD; error *err; const char *message; size_t length; } message_args;

static void error_message(void *p) {
  message_args *a = p;
  pthread_mutex_lock(&lock);
  if (is(a->err, ERROR, "PJRT_Error_Message")) {
    a->message = a->err->text;
    a->length = strlen(a->err->text);
  }
  pthread_mutex_unlock(&lock);
}

typedef struct { HEAD; error *err; int code; } code_args;

static error *error_code(void *p) {
  CALL(Error_GetCode, code_args, code)
  NEED(a->err, ERROR)
  a->code = a->err->code;
  RETURN(NULL)
}

typedef struct { HEAD; } no_args;

static error *initialize(void *p) {
  CALL(Plugin_Initialize, no_args, extension)
  (void)a;
  RETURN(NULL)
}

typedef struct {
  HEAD;
  const char *name;
  size_t name_size;
  int kind;
  union { const char *s; int64_t i; const int64_t *list; float f; bool b; } value;
  size_t count;
} named_value;

typedef struct { HEAD; const named_value *attributes; size_t count; } attributes_args;

static error *attributes(void *p) {
  CALL(Plugin_Attributes, attributes_args, count)
  static const int64_t stablehlo[] = {1, 13, 0};
  static const named_value list[] = {
      {sizeof(named_value), NULL, "xla_version", 11, 1, {.i = 2}, 1},
      {sizeof(named_value), NULL, "stablehlo_current_version", 25, 2, {.list = stablehlo}, 3},
      {sizeof(named_value), NULL, "kind", 4, 0, {.s = "fake, for tests"}, 4},
  };
  a->attributes = list;
  a->count = 3;
  RETURN(NULL)
}

static error *event_destroy(void *p) {
  CALL(Event_Destroy, object_args, object)
  NEED(a->object, EVENT)
  event *e = a->object;
  if (!e->ready && e->callback == NULL) violation("%s: the event was not ready, and nobody waited for it", me);
  if (e->registering) violation("%s: called inside PJRT_Event_OnReady of the same event", me);
  end_object(a->object);
  RETURN(NULL)
}

static error *event_await(void *p) {
  CALL(Event_Await, object_args, object)
  NEED(a->object, EVENT)
  event *e = a->object;
  while (!e->ready) pthread_cond_wait(&changed, &lock);
  RETURN(*e->failed ? new_error(config.run_code, "%s", e->failed) : NULL)
}

typedef struct { HEAD; event *event; on_ready callback; void *argument; } on_ready_args;

static error *event_on_ready(void *p) {
  CALL(Event_OnReady, on_ready_args, argument)
  NEED(a->event, EVENT)
  event *e = a->event;
  if (e->callback) violation("%s: a second callback", me);
  e->callback = a->callback;
  e->argument = a->argument;
  if (!e->ready) RETURN(NULL)
  e->registering = true;
  error *err = *e->failed ? new_error(config.run_code, "%s", e->failed) : NULL;
  pthread_mutex_unlock(&lock);
  a->callback(err, a->argument);
  pthread_mutex_lock(&lock);
  e->registering = false;
  RETURN(NULL)
}

typedef struct {
  HEAD;
  const named_value *options;
  size_t count;
  void *store[4];
  client *client;
  void *try_get[2];
} create_args;

static bool named(const named_value *v, const char *name, int kind) {
  return v->name_size == strlen(name) && !memcmp(v->name, name, v->name_size) && v->kind == kind;
}

static error *client_create(void *p) {
  CALL(Client_Create, create_args, try_get)
  if (config.abort_create) abort();
  int visible = -1;
  for (size_t i = 0; i < a->count; i++) {
    const named_value *v = &a->options[i];
    if (v->size != sizeof *v) violation("%s: option %zu has size %zu", me, i, v->size);
    if (named(v, "visible_devices", 2)) {
      if (v->count != 1) RETURN(new_error(UNIMPLEMENTED, "one device at a time, not %zu", v->count))
      visible = v->value.list[0];
    } else if (named(v, "memory_fraction", 3)) {
      if (!(v->value.f > 0 && v->value.f <= 1)) RETURN(new_error(INVALID_ARGUMENT, "memory_fraction %g", v->value.f))
    } else if (named(v, "allocator", 0)) {
      if (v->count != strlen(v->value.s)) violation("%s: allocator is no text with an end", me);
    } else if (!named(v, "preallocate", 4)) {
      RETURN(new_error(INVALID_ARGUMENT, "Unexpected option name passed to PJRT_Client_Create: %.*s", (int)v->name_size, v->name))
    }
  }
  if (config.devices == 0) RETURN(new_error(9, "no supported devices found for platform CUDA"))
  if (visible >= config.devices) RETURN(new_error(INVALID_ARGUMENT, "device ordinal %d is not among %d devices", visible, config.devices))
  client *c = new_object(CLIENT, sizeof *c);
  c->devices = visible < 0 ? config.devices : 1;
  for (int i = 0; i < c->devices; i++) {
    c->device[i].description.id = i;
    c->device[i].description.hardware = visible < 0 ? i : visible;
    c->device[i].client = c;
    c->list[i] = &c->device[i];
  }
  a->client = c;
  RETURN(NULL)
}

static error *client_destroy(void *p) {
  CALL(Client_Destroy, object_args, object)
  NEED(a->object, CLIENT)
  for (int k = EVENT; k < KINDS; k++)
    if (k != CLIENT && live[k]) violation("%s: %d of kind %s still there", me, live[k], kind_names[k]);
  end_object(a->object);
  RETURN(NULL)
}

typedef struct { HEAD; void *object; const char *text; size_t length; } text_args;

static error *platform_name(void *p) {
  CALL(Client_PlatformName, text_args, length)
  NEED(a->object, CLIENT)
  a->text = "fake", a->length = 4;
  RETURN(NULL)
}

static error *platform_version(void *p) {
  CALL(Client_PlatformVersion, text_args, length)
  NEED(a->object, CLIENT)
  a->text = "fake 13000", a->length = 10;
  RETURN(NULL)
}

typedef struct { HEAD; client *client; struct device **devices; size_t count; } devices_args;

static error *client_devices(void *p) {
  CALL(Client_AddressableDevices, devices_args, count)
  NEED(a->client, CLIENT)
  a->devices = a->client->list;
  a->count = a->client->devices;
  RETURN(NULL)
}

typedef struct { HEAD; struct device *device; struct description *description; } description_args;

static error *get_description(void *p) {
  CALL(Device_GetDescription, description_args, description)
  NEED(a->device->client, CLIENT)
  a->description = &a->device->description;
  RETURN(NULL)
}

typedef struct { HEAD; struct description *description; int id; } id_args;

static error *description_id(void *p) {
  CALL(DeviceDescription_Id, id_args, id)
  a->id = a->description->id;
  RETURN(NULL)
}

static error *description_kind(void *p) {
  CALL(DeviceDescription_Kind, text_args, length)
  a->text = "Fake 1000", a->length = 9;
  RETURN(NULL)
}

typedef struct { HEAD; struct device *device; int id; } hardware_args;

static error *hardware_id(void *p) {
  CALL(Device_LocalHardwareId, hardware_args, id)
  NEED(a->device->client, CLIENT)
  a->id = a->device->description.hardware;
  RETURN(NULL)
}

typedef struct { int64_t value; bool set; } maybe;
typedef struct {
  HEAD;
  struct device *device;
  int64_t in_use;
  maybe peak, allocations, largest, limit, reserved[3], largest_free, pool, peak_pool;
} stats_args;

static error *memory_stats(void *p) {
  CALL(Device_MemoryStats, stats_args, peak_pool.set)
  client *c = a->device->client;
  NEED(c, CLIENT)
  a->in_use = c->in_use;
  a->peak = (maybe){c->peak, true};
  a->limit = (maybe){config.limit, true};
  a->largest_free = (maybe){config.limit - c->in_use, true};
  RETURN(NULL)
}

// ---- programs

static int type_named(const char *s, size_t n) {
  static const struct { const char *name; int type; } types[] = {{"f32", 11}, {"bf16", 13}, {"i32", 4}, {"ui8", 6}, {"i1", 1}};
  for (size_t i = 0; i < sizeof types / sizeof *types; i++)
    if (strlen(types[i].name) == n && !strncmp(types[i].name, s, n)) return types[i].type;
  return 0;
}

// read_dims reads 2x3x and returns what follows.
static const char *read_dims(const char *s, output *o) {
  for (;;) {
    char *end;
    long long n = strtoll(s, &end, 10);
    if (end == s || *end != 'x' || o->ndims == MAX_DIMS) return s;
    o->dims[o->ndims++] = n;
    s = end + 1;
  }
}

// read_lines reads the lines of a program for this plugin.
static const char *read_lines(loaded *x) {
  for (const char *s = strstr(x->text, "fake: "); s; s = strstr(s + 1, "fake: ")) {
    if (x->outputs == MAX_OUTPUTS) return "too many outputs";
    output *o = &x->output[x->outputs++];
    char type[8], dims[128];
    o->alias = -1;
    int n = sscanf(s, "fake: %7s %120s = %7s %d %d", type, dims, o->op, &o->in[0], &o->in[1]);
    o->type = type_named(type, strlen(type));
    if (n < 3 || o->type == 0) return "a line that is no program";
    if (n < 5) o->in[1] = o->in[0];
    if (strcmp(dims, "scalar")) {
      strcat(dims, "x");
      if (*read_dims(dims, o)) return "sizes that are none";
    }
    const char *line = strchr(s, '\n'), *alias = strstr(s, " alias ");
    if (alias && (!line || alias < line)) o->alias = atoi(alias + 7);
  }
  return NULL;
}

// read_main reads the result types of a module's function main, in MLIR's generic or pretty form.
static const char *read_main(loaded *x) {
  const char *s = strstr(x->text, "@main"), *generic = strstr(x->text, "function_type");
  if (s == NULL) s = generic;
  if (s == NULL) return "no function main";
  if ((s = strstr(s, "->")) == NULL) return "no results";
  const char *end = strchr(s, '\n');
  if (generic && end == NULL) end = s + strlen(s);
  for (s = strstr(s, "tensor<"); s && (!end || s < end); s = strstr(s, "tensor<")) {
    if (x->outputs == MAX_OUTPUTS) return "too many outputs";
    output *o = &x->output[x->outputs++];
    o->alias = -1;
    strcpy(o->op, "zero");
    s = read_dims(s + strlen("tensor<"), o);
    o->type = type_named(s, strcspn(s, ">"));
    if (o->type == 0) return "a type that is not known";
  }
  return NULL;
}

typedef struct { HEAD; const char *code; size_t code_size; const char *format; size_t format_size; } program_args;
typedef struct { HEAD; client *client; program_args *program; const char *options; size_t options_size; loaded *executable; } compile_args;

static error *compile(void *p) {
  CALL(Client_Compile, compile_args, executable)
  NEED(a->client, CLIENT)
  if ((failure = sized("PJRT_Program", a->program, END(program_args, format_size)))) RETURN(failure)
  if (a->program->format_size != 4 || memcmp(a->program->format, "mlir", 4)) RETURN(new_error(INVALID_ARGUMENT, "format %.*s", (int)a->program->format_size, a->program->format))
  if (a->options_size == 0) violation("%s: no options", me);
  const char *unknown = config.unknown_option;
  if (*unknown && memmem(a->options, a->options_size, unknown, strlen(unknown)))
    RETURN(new_error(INVALID_ARGUMENT, "No such compile option: '%s'", unknown))
  loaded *x = new_object(LOADED, sizeof *x + a->program->code_size);
  memcpy(x->text, a->program->code, a->program->code_size);
  x->client = a->client;
  const char *wrong = read_lines(x);
  if (wrong == NULL && x->outputs == 0) wrong = read_main(x);
  if (wrong) {
    end_object(&x->o);
    RETURN(new_error(INVALID_ARGUMENT, "Failed to parse MLIR: %s", wrong))
  }
  a->executable = x;
  RETURN(NULL)
}

static error *loaded_destroy(void *p) {
  CALL(LoadedExecutable_Destroy, object_args, object)
  NEED(a->object, LOADED)
  end_object(a->object);
  RETURN(NULL)
}

typedef struct { HEAD; loaded *loaded; executable *executable; } get_executable_args;

static error *get_executable(void *p) {
  CALL(LoadedExecutable_GetExecutable, get_executable_args, executable)
  NEED(a->loaded, LOADED)
  a->executable = new_object(EXECUTABLE, sizeof(executable));
  a->executable->from = a->loaded;
  RETURN(NULL)
}

static error *executable_destroy(void *p) {
  CALL(Executable_Destroy, object_args, object)
  NEED(a->object, EXECUTABLE)
  end_object(a->object);
  RETURN(NULL)
}

typedef struct { HEAD; executable *executable; size_t count; } count_args;

static error *num_outputs(void *p) {
  CALL(Executable_NumOutputs, count_args, count)
  NEED(a->executable, EXECUTABLE)
  a->count = a->executable->from->outputs;
  RETURN(NULL)
}

typedef struct { HEAD; executable *executable; int64_t code, arguments, outputs, aliased, scratch, rest[10]; } plan_args;

static error *compiled_memory(void *p) {
  CALL(Executable_GetCompiledMemoryStats, plan_args, rest)
  NEED(a->executable, EXECUTABLE)
  loaded *x = a->executable->from;
  a->code = 1000;
  a->scratch = 4096;
  for (size_t i = 0; i < x->outputs; i++) {
    size_t n = bytes(x->output[i].type, x->output[i].ndims, x->output[i].dims);
    a->outputs += n;
    if (x->output[i].alias >= 0) a->aliased += n;
  }
  RETURN(NULL)
}

typedef struct {
  HEAD;
  void *callbacks[2];
  size_t ops[2];
  int launch_id;
  const int64_t *kept;
  size_t kept_count;
  void *rest[6];
} execute_options;

typedef struct {
  HEAD;
  loaded *loaded;
  execute_options *options;
  buffer *const *const *arguments;
  size_t devices, count;
  buffer **const *outputs;
  event **complete;
  void *device;
} execute_args;

static error *execute(void *p) {
  CALL(LoadedExecutable_Execute, execute_args, device)
  NEED(a->loaded, LOADED)
  if ((failure = sized("PJRT_ExecuteOptions", a->options, END(execute_options, rest)))) RETURN(failure)
  loaded *x = a->loaded;
  if (a->devices != 1 || a->device || !a->complete) violation("%s: devices %zu, device %p, events %p", me, a->devices, a->device, (void *)a->complete);
  if (a->count > MAX_ARGS) RETURN(new_error(UNIMPLEMENTED, "%zu arguments", a->count))
  job *j = calloc(1, sizeof *j);
  j->what = RUN;
  j->program = x;
  j->args = a->count;
  for (size_t i = 0; i < a->count; i++) {
    buffer *b = a->arguments[0][i];
    if (!is(b, BUFFER, me)) goto bad;
    if (b->donated) {
      violation("%s: argument %zu was donated before", me, i);
      goto bad;
    }
    j->arg[i] = b;
  }
  int64_t need = 0;
  for (size_t o = 0; o < x->outputs; o++) {
    output *spec = &x->output[o];
    for (int i = 0; i < 2 && strcmp(spec->op, "zero"); i++) {
      size_t n = spec->in[i];
      if (n >= a->count || j->arg[n]->size != bytes(spec->type, spec->ndims, spec->dims)) {
        free(j);
        RETURN(new_error(INVALID_ARGUMENT, "output %zu: argument %zu does not suit it", o, n))
      }
    }
    if (spec->alias < 0) need += bytes(spec->type, spec->ndims, spec->dims);
  }
  if (x->client->in_use + need > config.limit) {
    free(j);
    RETURN(new_error(RESOURCE_EXHAUSTED, "Out of memory while trying to allocate %lld bytes.", (long long)need))
  }
  for (size_t o = 0; o < x->outputs; o++) {
    output *spec = &x->output[o];
    j->out[o] = a->outputs[0][o] = new_buffer(x->client, spec->type, spec->ndims, spec->dims);
    if (spec->alias < 0) continue;
    bool kept = false;
    for (size_t k = 0; k < a->options->kept_count; k++) kept |= a->options->kept[k] == spec->alias;
    j->arg[spec->alias]->donated = !kept;
  }
  a->complete[0] = start(j);
  RETURN(NULL)
bad:
  free(j);
  RETURN(new_error(INTERNAL, "bad argument"))
}

// ---- buffers

typedef struct {
  HEAD;
  client *client;
  const char *data;
  int type;
  const int64_t *dims;
  size_t ndims;
  void *strides;
  size_t nstrides;
  int semantics;
  struct device *device;
  void *memory, *layout;
  event *done;
  buffer *buffer;
} from_host_args;

static error *from_host(void *p) {
  CALL(Client_BufferFromHostBuffer, from_host_args, buffer)
  NEED(a->client, CLIENT)
  if (a->device->client != a->client || a->semantics < 0 || a->semantics > 1 || a->nstrides || a->memory || a->layout || !a->data) violation("%s: unexpected arguments", me);
  if (a->ndims > MAX_DIMS || element(a->type) == 0) RETURN(new_error(INVALID_ARGUMENT, "type %d with %zu dimensions", a->type, a->ndims))
  int64_t need = bytes(a->type, a->ndims, a->dims);
  if (a->client->in_use + need > config.limit) RETURN(new_error(RESOURCE_EXHAUSTED, "Out of memory while trying to allocate %lld bytes.", (long long)need))
  buffer *b = new_buffer(a->client, a->type, a->ndims, a->dims);
  job *j = calloc(1, sizeof *j);
  j->what = TO_DEVICE;
  j->buffer = b;
  j->host = a->data;
  if (a->semantics == 0) {
    j->host = j->copy = malloc(b->size + 1);
    memcpy(j->copy, a->data, b->size);
  }
  j->sum = sum_of(j->host, b->size);
  a->done = start(j);
  a->buffer = b;
  RETURN(NULL)
}

static error *buffer_destroy(void *p) {
  CALL(Buffer_Destroy, object_args, object)
  NEED(a->object, BUFFER)
  buffer *b = a->object;
  b->client->in_use -= b->size;
  end_object(a->object);
  let_go(b);
  RETURN(NULL)
}

typedef struct { HEAD; buffer *buffer; int type; } type_args;

static error *buffer_type(void *p) {
  CALL(Buffer_ElementType, type_args, type)
  NEED(a->buffer, BUFFER)
  a->type = a->buffer->type;
  RETURN(NULL)
}

typedef struct { HEAD; buffer *buffer; const int64_t *dims; size_t count; } dims_args;

static error *buffer_dims(void *p) {
  CALL(Buffer_Dimensions, dims_args, count)
  NEED(a->buffer, BUFFER)
  a->dims = a->buffer->dims;
  a->count = a->buffer->ndims;
  RETURN(NULL)
}

typedef struct { HEAD; const int64_t *order; size_t count; void *tiles[3]; } tiled;
typedef struct { HEAD; tiled tiled; int kind; } layout;
typedef struct { HEAD; buffer *buffer; layout *layout; char *dst; size_t dst_size; event *event; } to_host_args;

static error *to_host(void *p) {
  CALL(Buffer_ToHostBuffer, to_host_args, event)
  NEED(a->buffer, BUFFER)
  buffer *b = a->buffer;
  if (a->layout == NULL) {
    violation("%s: no layout", me);
  } else {
    if ((failure = sized("PJRT_Buffer_MemoryLayout", a->layout, END(layout, kind)))) RETURN(failure)
    tiled *t = &a->layout->tiled;
    bool good = t->size == sizeof *t && t->count == b->ndims && a->layout->kind == 0;
    for (size_t i = 0; good && i < t->count; i++) good = t->order[i] == (int64_t)(t->count - 1 - i);
    if (!good) violation("%s: the layout is not row-major", me);
  }
  if (b->donated) RETURN(new_error(INVALID_ARGUMENT, "Buffer has been deleted or donated."))
  if (a->dst_size < b->size) RETURN(new_error(INVALID_ARGUMENT, "%zu bytes for a buffer of %zu", a->dst_size, b->size))
  job *j = calloc(1, sizeof *j);
  j->what = TO_HOST;
  j->buffer = b;
  j->dst = a->dst;
  a->event = start(j);
  RETURN(NULL)
}

typedef struct { HEAD; buffer *buffer; event *event; } ready_args;

static error *ready_event(void *p) {
  CALL(Buffer_ReadyEvent, ready_args, event)
  NEED(a->buffer, BUFFER)
  job *j = calloc(1, sizeof *j);
  j->what = READY;
  j->buffer = a->buffer;
  a->event = start(j);
  RETURN(NULL)
}

static error *missing(void *p) {
  (void)p;
  pthread_mutex_lock(&lock);
  violation("a function was called that this plugin does not have");
  RETURN(new_error(UNIMPLEMENTED, "not in this plugin"))
}

// ---- the table

struct {
  HEAD;
  struct { HEAD; int major, minor; } version;
  void *functions[135];
} table;

const void *GetPjrtApi(void) {
  pthread_mutex_lock(&lock);
  for (int i = 0; i < 135; i++) table.functions[i] = (void *)missing;
  const struct { int at; void *function; } functions[] = {
      {0, error_destroy}, {1, error_message}, {2, error_code}, {3, initialize}, {4, attributes},
      {5, event_destroy}, {8, event_await}, {9, event_on_ready},
      {10, client_create}, {11, client_destroy}, {12, platform_name}, {14, platform_version}, {16, client_devices},
      {20, compile}, {22, from_host},
      {23, description_id}, {26, description_kind}, {29, get_description}, {31, hardware_id}, {34, memory_stats},
      {40, executable_destroy}, {44, num_outputs}, {50, loaded_destroy}, {51, get_executable}, {55, execute},
      {58, buffer_destroy}, {59, buffer_type}, {60, buffer_dims}, {70, to_host}, {72, ready_event}, {96, compiled_memory},
  };
  for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) table.functions[functions[i].at] = functions[i].function;
  table.size = offsetof(__typeof__(table), functions) + config.entries * sizeof(void *);
  table.version.size = sizeof table.version;
  table.version.major = config.major;
  table.version.minor = config.minor;
  pthread_mutex_unlock(&lock);
  return &table;
}
