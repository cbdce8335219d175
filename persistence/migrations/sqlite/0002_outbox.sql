-- up
-- As on PostgreSQL; times are microseconds since 1970 in UTC.
CREATE TABLE holdfast_outbox_keys (
    tenant_id TEXT NOT NULL,
    topic TEXT NOT NULL,
    key TEXT NOT NULL,
    last INTEGER NOT NULL,
    done INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    due_at INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, topic, key)
) WITHOUT ROWID;
CREATE INDEX holdfast_outbox_keys_due ON holdfast_outbox_keys (tenant_id, topic, due_at) WHERE done < last;
CREATE TABLE holdfast_outbox (
    tenant_id TEXT NOT NULL,
    topic TEXT NOT NULL,
    key TEXT NOT NULL,
    number INTEGER NOT NULL,
    payload BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, topic, key, number)
);
CREATE TABLE holdfast_outbox_dead (
    tenant_id TEXT NOT NULL,
    topic TEXT NOT NULL,
    key TEXT NOT NULL,
    number INTEGER NOT NULL,
    payload BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    died_at INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    error TEXT NOT NULL,
    PRIMARY KEY (tenant_id, topic, key, number)
);

-- down
DROP TABLE holdfast_outbox_dead;
DROP TABLE holdfast_outbox;
DROP TABLE holdfast_outbox_keys;
