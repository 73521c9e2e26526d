-- +goose Up
-- For counting the open jobs of an owner.
CREATE INDEX jobs_open_by_owner ON jobs (owner) WHERE ended IS NULL;

-- +goose Down
DROP INDEX jobs_open_by_owner;
