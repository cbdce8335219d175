-- up
-- As on PostgreSQL; times are microseconds since 1970 in UTC.
CREATE TABLE holdfast_secrets (
    tenant_id TEXT NOT NULL,
    id TEXT NOT NULL,
    kind TEXT NOT NULL,
    context TEXT NOT NULL,
    key_id TEXT NOT NULL,
    sealed BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    PRIMARY KEY (tenant_id, id)
) WITHOUT ROWID;
CREATE INDEX holdfast_secrets_context ON holdfast_secrets (tenant_id, context, id);
CREATE INDEX holdfast_secrets_keys ON holdfast_secrets (tenant_id, key_id, id);
CREATE INDEX holdfast_secrets_expiry ON holdfast_secrets (tenant_id, expires_at) WHERE expires_at IS NOT NULL;
CREATE TABLE holdfast_secret_accesses (
    tenant_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    secret_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    context TEXT NOT NULL,
    actor TEXT NOT NULL,
    outcome TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, number)
) WITHOUT ROWID;
CREATE INDEX holdfast_secret_accesses_secret ON holdfast_secret_accesses (tenant_id, secret_id, number);

-- down
DROP TABLE holdfast_secret_accesses;
DROP TABLE holdfast_secrets;
