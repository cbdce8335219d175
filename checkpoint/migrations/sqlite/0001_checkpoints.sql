-- Threads, their checkpoints, and the pieces that states are made of; docs/formats.md explains the bytes.
-- Small rows without a rowid, so that the key is stored once; pieces keep it, because large rows in a key's tree are slow.

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
    PRIMARY KEY (tenant_id, thread_id, namespace)
) WITHOUT ROWID;

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
    refs BLOB NOT NULL,
    PRIMARY KEY (tenant_id, thread_id, namespace, version)
) WITHOUT ROWID;

CREATE TABLE holdfast_checkpoint_pieces (
    tenant_id TEXT NOT NULL,
    thread_id TEXT NOT NULL,
    namespace TEXT NOT NULL,
    hash BLOB NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (tenant_id, thread_id, namespace, hash)
);

-- down
DROP TABLE holdfast_checkpoint_pieces;
DROP TABLE holdfast_checkpoints;
DROP TABLE holdfast_checkpoint_threads;
