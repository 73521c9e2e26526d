-- +goose Up
CREATE TABLE sweeps (
    sequence     BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id           TEXT   NOT NULL UNIQUE,
    request_id   TEXT   UNIQUE,
    request      TEXT   NOT NULL,
    created      BIGINT NOT NULL,
    cancelled    BIGINT
);

-- Children of a sweep: their place in it, and what its parameters are in them, as JSON.
ALTER TABLE jobs ADD COLUMN sweep_id TEXT REFERENCES sweeps (id);
ALTER TABLE jobs ADD COLUMN sweep_index INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN sweep_values TEXT;
CREATE INDEX jobs_by_sweep ON jobs (sweep_id, sweep_index) WHERE sweep_id IS NOT NULL;

-- What each child reported when it first came to a rung of successive halving.
CREATE TABLE rungs (
    sweep_id TEXT    NOT NULL REFERENCES sweeps (id),
    rung     INTEGER NOT NULL,
    job_id   TEXT    NOT NULL REFERENCES jobs (id),
    value    DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (sweep_id, rung, job_id)
);

-- +goose Down
DROP TABLE rungs;
DROP INDEX jobs_by_sweep;
ALTER TABLE jobs DROP COLUMN sweep_values;
ALTER TABLE jobs DROP COLUMN sweep_index;
ALTER TABLE jobs DROP COLUMN sweep_id;
DROP TABLE sweeps;
