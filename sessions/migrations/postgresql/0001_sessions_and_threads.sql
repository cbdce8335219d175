-- up
CREATE TABLE holdfast_sessions (
    tenant_id text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    title text,
    metadata jsonb NOT NULL,
    version bigint NOT NULL,
    -- Microseconds, not an interval: a day of an interval has 23 to 25 hours, by the TimeZone of the connection.
    sliding_micros bigint,
    expires_at timestamptz,
    -- What the expiry index holds. It seldom changes as a sliding expires_at moves, so touching stays a HOT update.
    expires_slot timestamptz GENERATED ALWAYS AS (
        date_bin(INTERVAL '5 minutes', expires_at, TIMESTAMPTZ '2000-01-01 00:00:00+00')
    ) STORED,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id)
) WITH (fillfactor = 80);

-- No index holds updated_at, which each activity changes: that would end HOT updates. One user's sessions are sorted.
CREATE INDEX holdfast_sessions_user ON holdfast_sessions (tenant_id, user_id);
CREATE INDEX holdfast_sessions_expiry ON holdfast_sessions (tenant_id, expires_slot) WHERE expires_slot IS NOT NULL;

CREATE TABLE holdfast_threads (
    tenant_id text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    session_id text COLLATE "C",
    user_id text COLLATE "C" NOT NULL,
    title text,
    metadata jsonb NOT NULL,
    version bigint NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, session_id) REFERENCES holdfast_sessions (tenant_id, id) ON DELETE CASCADE
) WITH (fillfactor = 70);

CREATE INDEX holdfast_threads_session ON holdfast_threads (tenant_id, session_id) WHERE session_id IS NOT NULL;
CREATE INDEX holdfast_threads_user ON holdfast_threads (tenant_id, user_id);

-- down
DROP TABLE holdfast_threads;
DROP TABLE holdfast_sessions;
