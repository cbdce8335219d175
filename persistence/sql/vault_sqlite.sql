-- The statements of SecretVault on SQLite. Accesses are only ever added.

-- name: keep_secrets
-- hot: one secret; those of a value are one batch.
INSERT INTO holdfast_secrets (tenant_id, id, kind, context, key_id, sealed, created_at, expires_at)
VALUES (:tenant, :id, :kind, :context, :key_id, :sealed, :now, :expires_at);

-- name: own_secrets
-- hot: which references of a value are ours; by the primary key.
SELECT id, kind FROM holdfast_secrets
WHERE tenant_id = :tenant AND id IN (SELECT value FROM json_each(:ids)) AND context = :context;

-- name: open_secrets
-- hot: by the primary key. The context is compared by the caller, who records that it was another.
SELECT id, kind, context, sealed, coalesce(expires_at <= :now, 0) AS expired FROM holdfast_secrets
WHERE tenant_id = :tenant AND id IN (SELECT value FROM json_each(:ids));

-- name: record_secret_accesses
-- hot: all accesses of a call in one statement; only one at a time writes, so numbers follow on.
INSERT INTO holdfast_secret_accesses (tenant_id, number, secret_id, kind, context, actor, outcome, at)
SELECT :tenant,
       coalesce((SELECT number FROM holdfast_secret_accesses WHERE tenant_id = :tenant AND number > 0
                 ORDER BY number DESC LIMIT 1), 0) + json_each.key + 1,
       json_each.value ->> 0, json_each.value ->> 1, :context, :actor, json_each.value ->> 2, :now
FROM json_each(:accesses)
RETURNING number;

-- name: list_secret_accesses
-- hot: newest first, from a cursor down.
SELECT number, secret_id, kind, context, actor, outcome, at FROM holdfast_secret_accesses
WHERE tenant_id = :tenant AND number < :before AND (:actor IS NULL OR actor = :actor)
ORDER BY number DESC LIMIT :limit;

-- name: list_accesses_of_secret
-- hot: newest first, by the index of secrets.
SELECT number, secret_id, kind, context, actor, outcome, at FROM holdfast_secret_accesses
WHERE tenant_id = :tenant AND secret_id = :id AND number < :before AND (:actor IS NULL OR actor = :actor)
ORDER BY number DESC LIMIT :limit;

-- name: list_secrets
-- hot: those of a context by id; nothing that is sealed is read.
SELECT id, kind, context, key_id, created_at, expires_at FROM holdfast_secrets
WHERE tenant_id = :tenant AND context = :context AND id > :after
ORDER BY id LIMIT :limit;

-- name: delete_secret
-- hot: by the primary key; under another context nothing goes.
DELETE FROM holdfast_secrets WHERE tenant_id = :tenant AND id = :id AND kind = :kind AND context = :context;

-- name: forget_secrets
-- hot: some of a context, by its index.
DELETE FROM holdfast_secrets
WHERE tenant_id = :tenant AND id IN (
    SELECT id FROM holdfast_secrets WHERE tenant_id = :tenant AND context = :context ORDER BY id LIMIT :limit);

-- name: forget_expired_secrets
-- hot: those that expired first, by the index of expiry.
DELETE FROM holdfast_secrets
WHERE tenant_id = :tenant AND id IN (
    SELECT id FROM holdfast_secrets WHERE tenant_id = :tenant AND expires_at <= :now
    ORDER BY expires_at LIMIT :limit);

-- name: list_sealed_secrets
-- hot: those that another key sealed, by the index of keys.
SELECT id, kind, context, key_id, sealed FROM holdfast_secrets
WHERE tenant_id = :tenant AND (key_id, id) > (:after_key, :after) AND key_id <> :key_id
ORDER BY key_id, id LIMIT :limit;

-- name: seal_secret_anew
-- hot: only where nobody did meanwhile; by the primary key.
UPDATE holdfast_secrets SET sealed = :new, key_id = :key_id
WHERE tenant_id = :tenant AND id = :id AND sealed = :old
RETURNING id;

-- name: count_secrets_by_key
-- Tells which keys are in use, from the index of keys alone.
SELECT key_id, count(*) AS secrets FROM holdfast_secrets WHERE tenant_id = :tenant GROUP BY key_id ORDER BY key_id;
