-- up
-- As on PostgreSQL, in one table. There is one writer, so seq is the order of the commits; it is never used twice.
CREATE TABLE holdfast_events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id TEXT NOT NULL,
    at INTEGER NOT NULL,
    id INTEGER NOT NULL,
    retention TEXT NOT NULL,
    kind TEXT NOT NULL,
    service TEXT,
    name TEXT,
    value REAL,
    level TEXT,
    message TEXT,
    correlation TEXT,
    tags TEXT,
    samples INTEGER,
    valued INTEGER,
    low REAL,
    high REAL,
    chain TEXT,
    chain_seq INTEGER,
    hash BLOB,
    UNIQUE (tenant_id, at, id, retention)
);

-- Ends with seq, as every index here does.
CREATE INDEX holdfast_events_written ON holdfast_events (tenant_id);
CREATE INDEX holdfast_events_names ON holdfast_events (tenant_id, name, at, id);
CREATE INDEX holdfast_events_correlations ON holdfast_events (tenant_id, correlation, at, id)
    WHERE correlation IS NOT NULL;
CREATE UNIQUE INDEX holdfast_events_chain ON holdfast_events (tenant_id, chain, chain_seq) WHERE chain IS NOT NULL;

CREATE TABLE holdfast_event_chains (
    tenant_id TEXT NOT NULL,
    chain TEXT NOT NULL,
    seq INTEGER NOT NULL,
    hash BLOB NOT NULL,
    PRIMARY KEY (tenant_id, chain)
);

-- down
DROP TABLE holdfast_event_chains;
DROP TABLE holdfast_events;
