-- up
-- State scopes, shared context, key-value memory and LangGraph's store: namespaced items, whose faces differ by namespace.
CREATE TABLE holdfast_items (
    tenant_id text COLLATE "C" NOT NULL,
    -- Whose it is; '' is what all users of the tenant share. No API takes '' for a user.
    user_id text COLLATE "C" NOT NULL,
    -- Labels, each closed by U+001F: a prefix of labels is a range of the primary key.
    namespace text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    -- json, not jsonb: NUL, lone surrogates, numbers and the order of keys come back as they were.
    value json NOT NULL,
    -- The same where a face filters by it, NULL elsewhere.
    fields jsonb,
    topics text[] NOT NULL,
    subscribers text[] NOT NULL,
    version bigint NOT NULL,
    ttl_micros bigint,
    expires_at timestamptz,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, user_id, namespace, key)
) WITH (fillfactor = 80);

CREATE INDEX holdfast_items_expiry ON holdfast_items (tenant_id, expires_at) WHERE expires_at IS NOT NULL;

-- What an agent listens to, and where it may post: NULL anywhere, {} nowhere.
CREATE TABLE holdfast_context_agents (
    tenant_id text COLLATE "C" NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    agent text COLLATE "C" NOT NULL,
    topics text[] NOT NULL,
    permissions text[],
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, user_id, agent)
);

-- down
DROP TABLE holdfast_context_agents;
DROP TABLE holdfast_items;
