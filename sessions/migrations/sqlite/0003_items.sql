-- up
-- As on PostgreSQL. Lists are JSON text; json_extract reads the value itself, so no column repeats it for filters.
CREATE TABLE holdfast_items (
    tenant_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    namespace TEXT NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    topics TEXT NOT NULL,
    subscribers TEXT NOT NULL,
    version INTEGER NOT NULL,
    ttl_micros INTEGER,
    expires_at INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, user_id, namespace, key)
);

CREATE INDEX holdfast_items_expiry ON holdfast_items (tenant_id, expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE holdfast_context_agents (
    tenant_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    agent TEXT NOT NULL,
    topics TEXT NOT NULL,
    permissions TEXT,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, user_id, agent)
);

-- down
DROP TABLE holdfast_context_agents;
DROP TABLE holdfast_items;
