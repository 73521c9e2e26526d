-- Times are microseconds since 1970 UTC; NULL means not yet.

-- +goose Up
CREATE TABLE jobs (
    sequence        BIGINT  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id              TEXT    NOT NULL UNIQUE,
    request_id      TEXT    UNIQUE,
    display_name    TEXT    NOT NULL,
    spec            TEXT    NOT NULL,
    state           TEXT    NOT NULL,
    reason          TEXT    NOT NULL,
    epoch           BIGINT  NOT NULL,
    worker          TEXT    NOT NULL,
    lease_until     BIGINT,
    losses          INTEGER NOT NULL,
    progress        TEXT,
    checkpoint_step BIGINT  NOT NULL,
    checkpoint_path TEXT    NOT NULL,
    checkpoint_time BIGINT,
    result          TEXT,
    created         BIGINT  NOT NULL,
    started         BIGINT,
    ended           BIGINT,
    revision        BIGINT  NOT NULL
);

CREATE INDEX jobs_by_state ON jobs (state, sequence);
CREATE INDEX jobs_by_lease ON jobs (lease_until) WHERE lease_until IS NOT NULL;

-- Append only. job is the job after the event, as JSON, without its spec.
CREATE TABLE events (
    job_id   TEXT   NOT NULL REFERENCES jobs (id),
    revision BIGINT NOT NULL,
    time     BIGINT NOT NULL,
    type     TEXT   NOT NULL,
    job      TEXT   NOT NULL,
    PRIMARY KEY (job_id, revision)
);

-- +goose Down
DROP TABLE events;
DROP TABLE jobs;
