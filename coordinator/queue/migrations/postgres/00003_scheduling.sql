-- +goose Up
-- needs is JSON, "" for none. class is what jobs that are served alike have in common, in the order of service:
-- 1000 − priority in four digits / owner / digest of needs.
ALTER TABLE jobs ADD COLUMN owner TEXT NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN needs TEXT NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN class TEXT COLLATE "C" NOT NULL DEFAULT '1000//';
ALTER TABLE jobs ADD COLUMN not_before BIGINT;
ALTER TABLE jobs ADD COLUMN deadline BIGINT;
ALTER TABLE jobs ADD COLUMN stop TEXT NOT NULL DEFAULT '';

-- jobs_queue takes its place, and no statement may prefer it: it would pass over every job of other classes.
DROP INDEX jobs_by_state;
CREATE INDEX jobs_queue ON jobs (class, sequence) WHERE state = 'QUEUED';
CREATE INDEX jobs_by_worker ON jobs (worker) WHERE lease_until IS NOT NULL;
CREATE INDEX jobs_held ON jobs (priority) WHERE lease_until IS NOT NULL;
CREATE INDEX jobs_held_by_class ON jobs (class) WHERE lease_until IS NOT NULL;
CREATE INDEX jobs_by_deadline ON jobs (deadline) WHERE deadline IS NOT NULL AND ended IS NULL;
CREATE INDEX jobs_by_not_before ON jobs (not_before) WHERE not_before IS NOT NULL;
CREATE INDEX jobs_by_end ON jobs (ended) WHERE ended IS NOT NULL;

-- +goose Down
DROP INDEX jobs_by_end;
DROP INDEX jobs_by_not_before;
DROP INDEX jobs_by_deadline;
DROP INDEX jobs_held_by_class;
DROP INDEX jobs_held;
DROP INDEX jobs_by_worker;
DROP INDEX jobs_queue;
CREATE INDEX jobs_by_state ON jobs (state, sequence);
ALTER TABLE jobs DROP COLUMN stop;
ALTER TABLE jobs DROP COLUMN deadline;
ALTER TABLE jobs DROP COLUMN not_before;
ALTER TABLE jobs DROP COLUMN class;
ALTER TABLE jobs DROP COLUMN needs;
ALTER TABLE jobs DROP COLUMN priority;
ALTER TABLE jobs DROP COLUMN owner;
