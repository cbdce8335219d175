-- Secrets that were taken out of stored values, each sealed by a Cipher with tenant, id, kind and context as its place,
-- and every access to them. What is sealed under an old key is found by `key_id`, which the sealed bytes say too. An
-- access has no foreign key: it outlives the secret.
-- up
CREATE TABLE holdfast_secrets (
    tenant_id text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    context text COLLATE "C" NOT NULL,
    key_id text COLLATE "C" NOT NULL,
    sealed bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz,
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX holdfast_secrets_context ON holdfast_secrets (tenant_id, context, id);
CREATE INDEX holdfast_secrets_keys ON holdfast_secrets (tenant_id, key_id, id);
CREATE INDEX holdfast_secrets_expiry ON holdfast_secrets (tenant_id, expires_at) WHERE expires_at IS NOT NULL;
CREATE TABLE holdfast_secret_accesses (
    tenant_id text COLLATE "C" NOT NULL,
    number bigint GENERATED ALWAYS AS IDENTITY,
    secret_id text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    context text COLLATE "C" NOT NULL,
    actor text COLLATE "C" NOT NULL,
    outcome text COLLATE "C" NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, number)
);
CREATE INDEX holdfast_secret_accesses_secret ON holdfast_secret_accesses (tenant_id, secret_id, number);

-- down
DROP TABLE holdfast_secret_accesses;
DROP TABLE holdfast_secrets;
