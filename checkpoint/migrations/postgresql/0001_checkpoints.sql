-- Threads, their checkpoints, and the pieces that states are made of; docs/formats.md explains the bytes.

-- up
CREATE TABLE holdfast_checkpoint_threads (
    tenant_id text COLLATE "C" NOT NULL,
    thread_id text COLLATE "C" NOT NULL,
    namespace text COLLATE "C" NOT NULL,
    latest bigint NOT NULL,
    counter bigint NOT NULL,
    parent bigint,
    stamp bigint NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, thread_id, namespace)
) WITH (fillfactor = 50);

COMMENT ON TABLE holdfast_checkpoint_threads IS 'one row a thread and namespace: every save and delete locks it first';
COMMENT ON COLUMN holdfast_checkpoint_threads.latest IS 'the highest version that is there; 0: none';
COMMENT ON COLUMN holdfast_checkpoint_threads.counter IS 'the highest version ever given';
COMMENT ON COLUMN holdfast_checkpoint_threads.parent IS 'what was the latest before the last save';
COMMENT ON COLUMN holdfast_checkpoint_threads.stamp IS 'a random number, new with each save and delete';

CREATE TABLE holdfast_checkpoints (
    tenant_id text COLLATE "C" NOT NULL,
    thread_id text COLLATE "C" NOT NULL,
    namespace text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    parent_version bigint,
    created_at timestamptz NOT NULL,
    step bigint,
    node text,
    metadata jsonb NOT NULL,
    manifest bytea NOT NULL,
    refs bytea NOT NULL,
    PRIMARY KEY (tenant_id, thread_id, namespace, version)
);

CREATE TABLE holdfast_checkpoint_pieces (
    tenant_id text COLLATE "C" NOT NULL,
    thread_id text COLLATE "C" NOT NULL,
    namespace text COLLATE "C" NOT NULL,
    hash bytea NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (tenant_id, thread_id, namespace, hash)
);

ALTER TABLE holdfast_checkpoint_pieces ALTER COLUMN data SET STORAGE EXTERNAL;

-- down
DROP TABLE holdfast_checkpoint_pieces;
DROP TABLE holdfast_checkpoints;
DROP TABLE holdfast_checkpoint_threads;
