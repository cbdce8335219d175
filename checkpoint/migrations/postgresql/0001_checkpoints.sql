-- Threads, their checkpoints, and the blocks that states are made of; docs/formats.md explains the bytes.

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
    ttl interval,
    expires_at timestamptz,
    PRIMARY KEY (tenant_id, thread_id, namespace)
) WITH (fillfactor = 50);

CREATE INDEX holdfast_checkpoint_threads_expiry ON holdfast_checkpoint_threads (tenant_id, thread_id, expires_at)
WHERE expires_at IS NOT NULL;

-- A thread lives as long as any of its namespaces.
CREATE VIEW holdfast_checkpoint_expiry AS
SELECT tenant_id, thread_id, max(expires_at) AS expires_at
FROM holdfast_checkpoint_threads
WHERE expires_at IS NOT NULL
GROUP BY tenant_id, thread_id;

COMMENT ON TABLE holdfast_checkpoint_threads IS 'one row a thread and namespace: every save and delete locks it first';
COMMENT ON COLUMN holdfast_checkpoint_threads.latest IS 'the highest version that is there; 0: none';
COMMENT ON COLUMN holdfast_checkpoint_threads.counter IS 'the highest version ever given';
COMMENT ON COLUMN holdfast_checkpoint_threads.parent IS 'what the statement that saves read as the latest before';
COMMENT ON COLUMN holdfast_checkpoint_threads.stamp IS 'a random number, new with each save and delete';
COMMENT ON COLUMN holdfast_checkpoint_threads.ttl IS 'by how much each save moves expires_at; NULL: not at all';

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
    refs integer[] NOT NULL,
    data bytea,
    key text COLLATE "C",
    PRIMARY KEY (tenant_id, thread_id, namespace, version)
);

CREATE UNIQUE INDEX holdfast_checkpoints_key ON holdfast_checkpoints (tenant_id, thread_id, namespace, key)
WHERE key IS NOT NULL;

CREATE TABLE holdfast_checkpoint_blocks (
    tenant_id text COLLATE "C" NOT NULL,
    thread_id text COLLATE "C" NOT NULL,
    namespace text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    ordinal integer NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (tenant_id, thread_id, namespace, version, ordinal)
);

-- What pays is compressed before it is sent.
ALTER TABLE holdfast_checkpoints ALTER COLUMN data SET STORAGE EXTERNAL;
ALTER TABLE holdfast_checkpoint_blocks ALTER COLUMN data SET STORAGE EXTERNAL;

COMMENT ON COLUMN holdfast_checkpoints.data IS 'block 0: what this version added; NULL: nothing, or it lies elsewhere';
COMMENT ON COLUMN holdfast_checkpoints.refs IS 'the blocks it needs: versions ago * 256 + ordinal; 0: its own';
COMMENT ON TABLE holdfast_checkpoint_blocks IS 'large pieces, and blocks 0 of deleted versions that others need';

CREATE TABLE holdfast_checkpoint_writes (
    tenant_id text COLLATE "C" NOT NULL,
    thread_id text COLLATE "C" NOT NULL,
    namespace text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    task_id text COLLATE "C" NOT NULL,
    idx bigint NOT NULL,
    task_path text COLLATE "C" NOT NULL,
    channel text NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (tenant_id, thread_id, namespace, key, task_id, idx),
    FOREIGN KEY (tenant_id, thread_id, namespace) REFERENCES holdfast_checkpoint_threads ON DELETE CASCADE
);

COMMENT ON TABLE holdfast_checkpoint_writes IS 'pending writes of the checkpoint with that key, which may come later';

-- down
DROP TABLE holdfast_checkpoint_writes;
DROP TABLE holdfast_checkpoint_blocks;
DROP TABLE holdfast_checkpoints;
DROP VIEW holdfast_checkpoint_expiry;
DROP TABLE holdfast_checkpoint_threads;
