-- Each statement takes :tenant. The clock is the server's: statement_timestamp() moves within a transaction, as now()
-- does not, and may stand in an index condition, as clock_timestamp() may not. What has expired is not there for any
-- statement, whether it was cleaned up or not; a thread is not there once its session has expired. That is asked by a
-- subquery of one value: NOT EXISTS becomes a join, which goes through all sessions until their table has statistics.

-- name: create_session
-- hot: what had the id and has expired goes first, its threads too; the count makes the INSERT wait for that.
-- No row comes back when the id is taken, so that a duplicate doesn't fail the transaction it is in.
WITH gone AS (
    DELETE FROM holdfast_sessions
    WHERE tenant_id = :tenant AND id = :id AND expires_at <= statement_timestamp()
    RETURNING id
)
INSERT INTO holdfast_sessions
    (tenant_id, id, user_id, title, metadata, version, sliding_micros, expires_at, created_at, updated_at)
SELECT :tenant, :id, :user_id, :title, CAST(:metadata AS jsonb), 1, CAST(:sliding AS bigint),
    COALESCE(statement_timestamp() + CAST(:ttl AS bigint) * INTERVAL '1 microsecond', CAST(:expires_at AS timestamptz)),
    statement_timestamp(), statement_timestamp()
FROM (SELECT count(*) AS removed FROM gone) AS cleared
WHERE cleared.removed >= 0
ON CONFLICT (tenant_id, id) DO NOTHING
RETURNING id, user_id, title, metadata, version, sliding_micros, expires_at, created_at, updated_at;

-- name: get_session
-- hot: one probe of the primary key; a pure read, so that it may run on a replica.
SELECT id, user_id, title, metadata, version, sliding_micros, expires_at, created_at, updated_at
FROM holdfast_sessions
WHERE tenant_id = :tenant AND id = :id AND (expires_at IS NULL OR expires_at > statement_timestamp());

-- name: update_session
-- hot: the version is compared under the row lock; updated_at never goes back, whoever waited for the lock.
UPDATE holdfast_sessions SET
    user_id = :user_id, title = :title, metadata = CAST(:metadata AS jsonb), version = version + 1,
    sliding_micros = CAST(:sliding AS bigint),
    expires_at = COALESCE(
        clock_timestamp() + CAST(:sliding AS bigint) * INTERVAL '1 microsecond', CAST(:expires_at AS timestamptz)
    ),
    updated_at = greatest(updated_at, clock_timestamp())
WHERE tenant_id = :tenant AND id = :id AND (expires_at IS NULL OR expires_at > statement_timestamp())
    AND (CAST(:expected AS bigint) IS NULL OR version = CAST(:expected AS bigint))
RETURNING id, user_id, title, metadata, version, sliding_micros, expires_at, created_at, updated_at;

-- name: touch_session
-- hot: changes no indexed column but, every five minutes, expires_slot; the version counts changes of content only.
UPDATE holdfast_sessions SET
    expires_at = COALESCE(clock_timestamp() + sliding_micros * INTERVAL '1 microsecond', expires_at),
    updated_at = greatest(updated_at, clock_timestamp())
WHERE tenant_id = :tenant AND id = :id AND (expires_at IS NULL OR expires_at > statement_timestamp())
RETURNING id, user_id, title, metadata, version, sliding_micros, expires_at, created_at, updated_at;

-- name: patch_session
-- hot: merges into the row as it is under the lock. Every key of the patch is taken out, then the new values go in.
UPDATE holdfast_sessions SET
    metadata = (metadata - ARRAY(SELECT jsonb_object_keys(CAST(:touched AS jsonb)))) || CAST(:changes AS jsonb),
    version = version + 1,
    expires_at = COALESCE(clock_timestamp() + sliding_micros * INTERVAL '1 microsecond', expires_at),
    updated_at = greatest(updated_at, clock_timestamp())
WHERE tenant_id = :tenant AND id = :id AND (expires_at IS NULL OR expires_at > statement_timestamp())
    AND (CAST(:expected AS bigint) IS NULL OR version = CAST(:expected AS bigint))
RETURNING id, user_id, title, metadata, version, sliding_micros, expires_at, created_at, updated_at;

-- name: delete_session
-- hot: removes an expired one too, but answers as if it had been gone; its threads go by the foreign key. They are locked
-- before it, as by everybody who writes to them: see lock_session_threads.
WITH locked AS MATERIALIZED (
    SELECT t.id FROM holdfast_threads AS t WHERE t.tenant_id = :tenant AND t.session_id = :id
    ORDER BY t.id || '' FOR UPDATE
)
DELETE FROM holdfast_sessions
WHERE tenant_id = :tenant AND id = :id AND (SELECT count(*) FROM locked) >= 0
RETURNING expires_at IS NULL OR expires_at > statement_timestamp() AS was_there;

-- name: delete_expired_sessions
-- hot: walks the expiry index from its old end. A session that somebody is renewing is locked, and skipped.
WITH expired AS (
    SELECT id FROM holdfast_sessions
    WHERE tenant_id = :tenant AND expires_slot <= statement_timestamp() AND expires_at <= statement_timestamp()
    ORDER BY expires_slot LIMIT :limit
    FOR UPDATE SKIP LOCKED
)
DELETE FROM holdfast_sessions AS s USING expired WHERE s.tenant_id = :tenant AND s.id = expired.id;

-- name: list_user_sessions
-- hot: sorts one user's sessions rather than keep an index that each activity would change.
SELECT id, user_id, title, metadata, version, sliding_micros, expires_at, created_at, updated_at
FROM holdfast_sessions
WHERE tenant_id = :tenant AND user_id = :user_id AND (expires_at IS NULL OR expires_at > statement_timestamp())
    AND (CAST(:after_time AS timestamptz) IS NULL
        OR (updated_at, id) < (CAST(:after_time AS timestamptz), CAST(:after_id AS text)))
    AND (CAST(:where AS jsonb) IS NULL OR NOT EXISTS (
        SELECT 1 FROM jsonb_each(CAST(:where AS jsonb)) AS w WHERE holdfast_sessions.metadata -> w.key IS DISTINCT FROM w.value
    ))
ORDER BY updated_at DESC, id DESC LIMIT :limit;

-- name: create_thread
-- hot: the session lends its owner where no user is named; no row comes back when it isn't there or the id is taken.
-- What had the id in a session that has expired goes first; the count makes the INSERT wait for that.
WITH gone AS (
    DELETE FROM holdfast_threads AS t
    WHERE t.tenant_id = :tenant AND t.id = :id AND (
        SELECT s.expires_at <= statement_timestamp() FROM holdfast_sessions AS s
        WHERE s.tenant_id = t.tenant_id AND s.id = t.session_id
    )
    RETURNING t.id
)
INSERT INTO holdfast_threads
    (tenant_id, id, session_id, user_id, title, metadata, version, created_at, updated_at)
SELECT :tenant, :id, s.id, COALESCE(CAST(:user_id AS text), s.user_id), :title, CAST(:metadata AS jsonb), 1,
    statement_timestamp(), statement_timestamp()
FROM (SELECT count(*) AS removed FROM gone) AS cleared
LEFT JOIN holdfast_sessions AS s
    ON s.tenant_id = :tenant AND s.id = CAST(:session_id AS text)
    AND (s.expires_at IS NULL OR s.expires_at > statement_timestamp())
WHERE cleared.removed >= 0 AND (CAST(:session_id AS text) IS NULL OR s.id IS NOT NULL)
ON CONFLICT (tenant_id, id) DO NOTHING
RETURNING id, session_id, user_id, title, metadata, version, created_at, updated_at;

-- name: get_thread
-- hot: one probe of each primary key.
SELECT t.id, t.session_id, t.user_id, t.title, t.metadata, t.version, t.created_at, t.updated_at
FROM holdfast_threads AS t
WHERE t.tenant_id = :tenant AND t.id = :id AND (
    SELECT s.expires_at <= statement_timestamp() FROM holdfast_sessions AS s
    WHERE s.tenant_id = t.tenant_id AND s.id = t.session_id
) IS NOT TRUE;

-- name: update_thread
-- hot: the version is compared under the row lock; the session it is moved to must be there and not expired.
UPDATE holdfast_threads AS t SET
    session_id = CAST(:session_id AS text), user_id = COALESCE(CAST(:user_id AS text), t.user_id), title = :title,
    metadata = CAST(:metadata AS jsonb), version = t.version + 1,
    updated_at = greatest(t.updated_at, clock_timestamp())
WHERE t.tenant_id = :tenant AND t.id = :id AND (
        SELECT s.expires_at <= statement_timestamp() FROM holdfast_sessions AS s
        WHERE s.tenant_id = t.tenant_id AND s.id = t.session_id
    ) IS NOT TRUE
    AND (CAST(:session_id AS text) IS NULL OR EXISTS (
        SELECT 1 FROM holdfast_sessions AS s
        WHERE s.tenant_id = :tenant AND s.id = CAST(:session_id AS text)
            AND (s.expires_at IS NULL OR s.expires_at > statement_timestamp())
    ))
    AND (CAST(:expected AS bigint) IS NULL OR t.version = CAST(:expected AS bigint))
RETURNING t.id, t.session_id, t.user_id, t.title, t.metadata, t.version, t.created_at, t.updated_at;

-- name: patch_thread
-- hot: merges into the row as it is under the lock. Every key of the patch is taken out, then the new values go in.
UPDATE holdfast_threads AS t SET
    metadata = (t.metadata - ARRAY(SELECT jsonb_object_keys(CAST(:touched AS jsonb)))) || CAST(:changes AS jsonb),
    version = t.version + 1,
    updated_at = greatest(t.updated_at, clock_timestamp())
WHERE t.tenant_id = :tenant AND t.id = :id AND (
        SELECT s.expires_at <= statement_timestamp() FROM holdfast_sessions AS s
        WHERE s.tenant_id = t.tenant_id AND s.id = t.session_id
    ) IS NOT TRUE
    AND (CAST(:expected AS bigint) IS NULL OR t.version = CAST(:expected AS bigint))
RETURNING t.id, t.session_id, t.user_id, t.title, t.metadata, t.version, t.created_at, t.updated_at;

-- name: touch_thread
-- hot: the version counts changes of content only.
UPDATE holdfast_threads AS t SET updated_at = greatest(t.updated_at, clock_timestamp())
WHERE t.tenant_id = :tenant AND t.id = :id AND (
    SELECT s.expires_at <= statement_timestamp() FROM holdfast_sessions AS s
    WHERE s.tenant_id = t.tenant_id AND s.id = t.session_id
) IS NOT TRUE
RETURNING t.id, t.session_id, t.user_id, t.title, t.metadata, t.version, t.created_at, t.updated_at;

-- name: delete_thread
-- hot: removes one of an expired session too, but answers as if it had been gone.
DELETE FROM holdfast_threads AS t
WHERE t.tenant_id = :tenant AND t.id = :id
RETURNING (
    SELECT s.expires_at <= statement_timestamp() FROM holdfast_sessions AS s
    WHERE s.tenant_id = t.tenant_id AND s.id = t.session_id
) IS NOT TRUE AS was_there;

-- name: list_session_threads
-- hot: sorts one session's threads rather than keep an index that each activity would change.
SELECT t.id, t.session_id, t.user_id, t.title, t.metadata, t.version, t.created_at, t.updated_at
FROM holdfast_threads AS t
WHERE t.tenant_id = :tenant AND t.session_id = :session_id AND NOT EXISTS (
        SELECT 1 FROM holdfast_sessions AS s
        WHERE s.tenant_id = :tenant AND s.id = :session_id AND s.expires_at <= statement_timestamp()
    )
    AND (CAST(:after_time AS timestamptz) IS NULL
        OR (t.updated_at, t.id) < (CAST(:after_time AS timestamptz), CAST(:after_id AS text)))
    AND (CAST(:where AS jsonb) IS NULL OR NOT EXISTS (
        SELECT 1 FROM jsonb_each(CAST(:where AS jsonb)) AS w WHERE t.metadata -> w.key IS DISTINCT FROM w.value
    ))
ORDER BY t.updated_at DESC, t.id DESC LIMIT :limit;

-- name: list_user_threads
-- hot: sorts one user's threads rather than keep an index that each activity would change.
SELECT t.id, t.session_id, t.user_id, t.title, t.metadata, t.version, t.created_at, t.updated_at
FROM holdfast_threads AS t
WHERE t.tenant_id = :tenant AND t.user_id = :user_id AND (
        SELECT s.expires_at <= statement_timestamp() FROM holdfast_sessions AS s
        WHERE s.tenant_id = t.tenant_id AND s.id = t.session_id
    ) IS NOT TRUE
    AND (CAST(:after_time AS timestamptz) IS NULL
        OR (t.updated_at, t.id) < (CAST(:after_time AS timestamptz), CAST(:after_id AS text)))
    AND (CAST(:where AS jsonb) IS NULL OR NOT EXISTS (
        SELECT 1 FROM jsonb_each(CAST(:where AS jsonb)) AS w WHERE t.metadata -> w.key IS DISTINCT FROM w.value
    ))
ORDER BY t.updated_at DESC, t.id DESC LIMIT :limit;
