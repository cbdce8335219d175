-- The statements of SecretVault on PostgreSQL. Accesses are only ever added.

-- name: keep_secrets
-- hot: all secrets of a value in one statement.
INSERT INTO holdfast_secrets (tenant_id, id, kind, context, key_id, sealed, expires_at)
SELECT :tenant, id, kind, CAST(:context AS text), :key_id, sealed,
       clock_timestamp() + CAST(:ttl AS float8) * INTERVAL '1 second'
FROM unnest(CAST(:ids AS text[]), CAST(:kinds AS text[]), CAST(:sealed AS bytea[])) AS g (id, kind, sealed);

-- name: own_secrets
-- hot: which references of a value are ours; by the primary key.
SELECT id, kind FROM holdfast_secrets
WHERE tenant_id = :tenant AND id = ANY(CAST(:ids AS text[])) AND context = :context;

-- name: open_secrets
-- hot: by the primary key. The context is compared by the caller, who records that it was another.
SELECT id, kind, context, sealed, coalesce(expires_at <= clock_timestamp(), false) AS expired FROM holdfast_secrets
WHERE tenant_id = :tenant AND id = ANY(CAST(:ids AS text[]));

-- name: record_secret_accesses
-- hot: all accesses of a call in one statement, in its order.
INSERT INTO holdfast_secret_accesses (tenant_id, secret_id, kind, context, actor, outcome)
SELECT :tenant, id, kind, CAST(:context AS text), :actor, outcome
FROM unnest(CAST(:ids AS text[]), CAST(:kinds AS text[]), CAST(:outcomes AS text[]))
     WITH ORDINALITY AS g (id, kind, outcome, place)
ORDER BY place
RETURNING number;

-- name: list_secret_accesses
-- hot: newest first, from a cursor down.
SELECT number, secret_id, kind, context, actor, outcome, at FROM holdfast_secret_accesses
WHERE tenant_id = :tenant AND number < :before
      AND (CAST(:actor AS text) IS NULL OR actor = :actor)
ORDER BY number DESC LIMIT :limit;

-- name: list_accesses_of_secret
-- hot: newest first, by the index of secrets.
SELECT number, secret_id, kind, context, actor, outcome, at FROM holdfast_secret_accesses
WHERE tenant_id = :tenant AND secret_id = :id AND number < :before
      AND (CAST(:actor AS text) IS NULL OR actor = :actor)
ORDER BY number DESC LIMIT :limit;

-- name: list_secrets
-- hot: those of a context by id; nothing that is sealed is read.
SELECT id, kind, context, key_id, created_at, expires_at FROM holdfast_secrets
WHERE tenant_id = :tenant AND context = :context AND id > CAST(:after AS text)
ORDER BY id LIMIT :limit;

-- name: delete_secret
-- hot: by the primary key; under another context nothing goes.
DELETE FROM holdfast_secrets WHERE tenant_id = :tenant AND id = :id AND kind = :kind AND context = :context;

-- name: forget_secrets
-- hot: some of a context, by its index.
DELETE FROM holdfast_secrets
WHERE tenant_id = :tenant AND id = ANY(ARRAY(
    SELECT id FROM holdfast_secrets WHERE tenant_id = :tenant AND context = :context ORDER BY id LIMIT :limit));

-- name: forget_expired_secrets
-- Those that expired first, by the index of expiry.
DELETE FROM holdfast_secrets
WHERE tenant_id = :tenant AND id = ANY(ARRAY(
    SELECT id FROM holdfast_secrets WHERE tenant_id = :tenant AND expires_at <= clock_timestamp()
    ORDER BY expires_at LIMIT :limit));

-- name: list_sealed_secrets
-- hot: those that another key sealed: those below its id, then those above, each by the index of keys.
(SELECT id, kind, context, key_id, sealed FROM holdfast_secrets
 WHERE tenant_id = :tenant AND key_id < :key_id AND (key_id, id) > (CAST(:after_key AS text), CAST(:after AS text))
 ORDER BY key_id, id LIMIT :limit)
UNION ALL
(SELECT id, kind, context, key_id, sealed FROM holdfast_secrets
 WHERE tenant_id = :tenant AND key_id > :key_id AND (key_id, id) > (CAST(:after_key AS text), CAST(:after AS text))
 ORDER BY key_id, id LIMIT :limit)
ORDER BY key_id, id LIMIT :limit;

-- name: seal_secret_anew
-- hot: only where nobody did meanwhile; by the primary key.
UPDATE holdfast_secrets SET sealed = :new, key_id = :key_id
WHERE tenant_id = :tenant AND id = :id AND sealed = :old
RETURNING id;

-- name: count_secrets_by_key
-- Tells which keys are in use, from the index of keys alone.
SELECT key_id, count(*) AS secrets FROM holdfast_secrets WHERE tenant_id = :tenant GROUP BY key_id ORDER BY key_id;
