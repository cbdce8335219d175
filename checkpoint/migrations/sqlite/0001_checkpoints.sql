-- Threads, their checkpoints, and the blocks that states are made of; docs/formats.md explains the bytes.
-- Small rows without a rowid, so that the key is stored once; where rows may be large they keep it, for large rows in a
-- key's tree are slow.

-- up
CREATE TABLE holdfast_checkpoint_threads (
    tenant_id TEXT NOT NULL,
    thread_id TEXT NOT NULL,
    namespace TEXT NOT NULL,
    latest INTEGER NOT NULL,
    counter INTEGER NOT NULL,
    parent INTEGER,
    stamp INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    ttl INTEGER,
    expires_at INTEGER,
    PRIMARY KEY (tenant_id, thread_id, namespace)
) WITHOUT ROWID;

CREATE INDEX holdfast_checkpoint_threads_expiry ON holdfast_checkpoint_threads (tenant_id, thread_id, expires_at)
WHERE expires_at IS NOT NULL;

-- A thread lives as long as any of its namespaces.
CREATE VIEW holdfast_checkpoint_expiry AS
SELECT tenant_id, thread_id, max(expires_at) AS expires_at
FROM holdfast_checkpoint_threads
WHERE expires_at IS NOT NULL
GROUP BY tenant_id, thread_id;

CREATE TABLE holdfast_checkpoints (
    tenant_id TEXT NOT NULL,
    thread_id TEXT NOT NULL,
    namespace TEXT NOT NULL,
    version INTEGER NOT NULL,
    parent_version INTEGER,
    created_at INTEGER NOT NULL,
    step INTEGER,
    node TEXT,
    metadata TEXT NOT NULL,
    manifest BLOB NOT NULL,
    refs TEXT NOT NULL,
    key TEXT,
    data BLOB,
    PRIMARY KEY (tenant_id, thread_id, namespace, version)
);

CREATE UNIQUE INDEX holdfast_checkpoints_key ON holdfast_checkpoints (tenant_id, thread_id, namespace, key)
WHERE key IS NOT NULL;

CREATE TABLE holdfast_checkpoint_blocks (
    tenant_id TEXT NOT NULL,
    thread_id TEXT NOT NULL,
    namespace TEXT NOT NULL,
    version INTEGER NOT NULL,
    ordinal INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (tenant_id, thread_id, namespace, version, ordinal)
);

CREATE TABLE holdfast_checkpoint_writes (
    tenant_id TEXT NOT NULL,
    thread_id TEXT NOT NULL,
    namespace TEXT NOT NULL,
    key TEXT NOT NULL,
    task_id TEXT NOT NULL,
    idx INTEGER NOT NULL,
    task_path TEXT NOT NULL,
    channel TEXT NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (tenant_id, thread_id, namespace, key, task_id, idx),
    FOREIGN KEY (tenant_id, thread_id, namespace) REFERENCES holdfast_checkpoint_threads ON DELETE CASCADE
);

-- down
DROP TABLE holdfast_checkpoint_writes;
DROP TABLE holdfast_checkpoint_blocks;
DROP TABLE holdfast_checkpoints;
DROP VIEW holdfast_checkpoint_expiry;
DROP TABLE holdfast_checkpoint_threads;
