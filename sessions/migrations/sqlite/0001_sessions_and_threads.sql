-- up
CREATE TABLE holdfast_sessions (
    tenant_id TEXT NOT NULL,
    id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    title TEXT,
    metadata TEXT NOT NULL,
    version INTEGER NOT NULL,
    sliding_micros INTEGER,
    expires_at INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, id)
);

CREATE INDEX holdfast_sessions_user ON holdfast_sessions (tenant_id, user_id);
CREATE INDEX holdfast_sessions_expiry ON holdfast_sessions (tenant_id, expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE holdfast_threads (
    tenant_id TEXT NOT NULL,
    id TEXT NOT NULL,
    session_id TEXT,
    user_id TEXT NOT NULL,
    title TEXT,
    metadata TEXT NOT NULL,
    version INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, session_id) REFERENCES holdfast_sessions (tenant_id, id) ON DELETE CASCADE
);

CREATE INDEX holdfast_threads_session ON holdfast_threads (tenant_id, session_id);
CREATE INDEX holdfast_threads_user ON holdfast_threads (tenant_id, user_id);

-- down
DROP TABLE holdfast_threads;
DROP TABLE holdfast_sessions;
