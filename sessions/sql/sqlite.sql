-- Each statement takes :tenant and :now, our clock in microseconds. What has expired is not there for any statement,
-- whether it was cleaned up or not; a thread is not there once its session has expired.

-- name: create_session
-- hot: REPLACE can only meet a row that has expired; it takes its threads along by the foreign key.
-- No row comes back when the id is taken, so that a duplicate doesn't fail the transaction it is in.
INSERT OR REPLACE INTO holdfast_sessions
    (tenant_id, id, user_id, title, metadata, version, sliding_micros, expires_at, created_at, updated_at)
SELECT :tenant, :id, :user_id, :title, :metadata, 1, :sliding, COALESCE(:now + :ttl, :expires_at), :now, :now
WHERE NOT EXISTS (
    SELECT 1 FROM holdfast_sessions
    WHERE tenant_id = :tenant AND id = :id AND (expires_at IS NULL OR expires_at > :now)
)
RETURNING id, user_id, title, metadata, version, sliding_micros, expires_at, created_at, updated_at;

-- name: get_session
-- hot: one probe of the primary key; a pure read, so that it runs beside the writer.
SELECT id, user_id, title, metadata, version, sliding_micros, expires_at, created_at, updated_at
FROM holdfast_sessions
WHERE tenant_id = :tenant AND id = :id AND (expires_at IS NULL OR expires_at > :now);

-- name: update_session
-- hot: updated_at never goes back, even when the clock does.
UPDATE holdfast_sessions SET
    user_id = :user_id, title = :title, metadata = :metadata, version = version + 1, sliding_micros = :sliding,
    expires_at = COALESCE(:now + :sliding, :expires_at), updated_at = max(updated_at, :now)
WHERE tenant_id = :tenant AND id = :id AND (expires_at IS NULL OR expires_at > :now)
    AND (:expected IS NULL OR version = :expected)
RETURNING id, user_id, title, metadata, version, sliding_micros, expires_at, created_at, updated_at;

-- name: touch_session
-- hot: the version counts changes of content only.
UPDATE holdfast_sessions SET
    expires_at = COALESCE(:now + sliding_micros, expires_at), updated_at = max(updated_at, :now)
WHERE tenant_id = :tenant AND id = :id AND (expires_at IS NULL OR expires_at > :now)
RETURNING id, user_id, title, metadata, version, sliding_micros, expires_at, created_at, updated_at;

-- name: patch_session
-- hot: every key of the patch is taken out, then the new values are appended as the text that they are: json_patch
-- alone would merge below the top level and drop nested nulls, json_each would round numbers.
UPDATE holdfast_sessions SET
    metadata = (
        SELECT CASE
            WHEN rest.text = '{}' THEN :changes
            WHEN :changes = '{}' THEN rest.text
            ELSE substr(rest.text, 1, length(rest.text) - 1) || ',' || substr(:changes, 2)
        END
        FROM (SELECT json_patch(metadata, :touched) AS text) AS rest
    ),
    version = version + 1, expires_at = COALESCE(:now + sliding_micros, expires_at), updated_at = max(updated_at, :now)
WHERE tenant_id = :tenant AND id = :id AND (expires_at IS NULL OR expires_at > :now)
    AND (:expected IS NULL OR version = :expected)
RETURNING id, user_id, title, metadata, version, sliding_micros, expires_at, created_at, updated_at;

-- name: delete_session
-- hot: removes an expired one too, but answers as if it had been gone; its threads go by the foreign key.
-- COALESCE, because IS NULL in RETURNING is wrongly false in SQLite 3.40.
DELETE FROM holdfast_sessions
WHERE tenant_id = :tenant AND id = :id
RETURNING COALESCE(expires_at > :now, 1) AS was_there;

-- name: delete_expired_sessions
-- hot: walks the expiry index from its old end.
DELETE FROM holdfast_sessions
WHERE tenant_id = :tenant AND id IN (
    SELECT id FROM holdfast_sessions
    WHERE tenant_id = :tenant AND expires_at <= :now
    ORDER BY expires_at LIMIT :limit
);

-- name: list_user_sessions
-- hot: sorts one user's sessions, as on PostgreSQL.
SELECT id, user_id, title, metadata, version, sliding_micros, expires_at, created_at, updated_at
FROM holdfast_sessions
WHERE tenant_id = :tenant AND user_id = :user_id AND (expires_at IS NULL OR expires_at > :now)
    AND (:after_time IS NULL OR (updated_at, id) < (:after_time, :after_id))
    AND (:where IS NULL OR NOT EXISTS (
        SELECT 1 FROM json_tree(:where) WHERE json_tree.key IS NOT NULL AND NOT EXISTS (
            SELECT 1 FROM json_each(holdfast_sessions.metadata)
            WHERE json_each.key = json_tree.key AND json_each.atom IS json_tree.atom AND (
                json_each.type = json_tree.type
                OR json_each.type IN ('integer', 'real') AND json_tree.type IN ('integer', 'real')
            )
        )
    ))
ORDER BY updated_at DESC, id DESC LIMIT :limit;

-- name: create_thread
-- hot: the session lends its owner where no user is named; no row comes back when it isn't there or the id is taken.
-- REPLACE can only meet a thread whose session has expired.
INSERT OR REPLACE INTO holdfast_threads
    (tenant_id, id, session_id, user_id, title, metadata, version, created_at, updated_at)
SELECT :tenant, :id, s.id, COALESCE(:user_id, s.user_id), :title, :metadata, 1, :now, :now
FROM (SELECT 1) AS one
LEFT JOIN holdfast_sessions AS s
    ON s.tenant_id = :tenant AND s.id = :session_id AND (s.expires_at IS NULL OR s.expires_at > :now)
WHERE (:session_id IS NULL OR s.id IS NOT NULL) AND NOT EXISTS (
    SELECT 1 FROM holdfast_threads AS t
    WHERE t.tenant_id = :tenant AND t.id = :id AND NOT EXISTS (
        SELECT 1 FROM holdfast_sessions AS o
        WHERE o.tenant_id = t.tenant_id AND o.id = t.session_id AND o.expires_at <= :now
    )
)
RETURNING id, session_id, user_id, title, metadata, version, created_at, updated_at;

-- name: get_thread
-- hot: one probe of each primary key.
SELECT t.id, t.session_id, t.user_id, t.title, t.metadata, t.version, t.created_at, t.updated_at
FROM holdfast_threads AS t
WHERE t.tenant_id = :tenant AND t.id = :id AND NOT EXISTS (
    SELECT 1 FROM holdfast_sessions AS s
    WHERE s.tenant_id = t.tenant_id AND s.id = t.session_id AND s.expires_at <= :now
);

-- name: update_thread
-- hot: the session it is moved to must be there and not expired.
UPDATE holdfast_threads AS t SET
    session_id = :session_id, user_id = COALESCE(:user_id, user_id), title = :title, metadata = :metadata,
    version = version + 1, updated_at = max(updated_at, :now)
WHERE t.tenant_id = :tenant AND t.id = :id AND NOT EXISTS (
        SELECT 1 FROM holdfast_sessions AS s
        WHERE s.tenant_id = t.tenant_id AND s.id = t.session_id AND s.expires_at <= :now
    )
    AND (:session_id IS NULL OR EXISTS (
        SELECT 1 FROM holdfast_sessions AS s
        WHERE s.tenant_id = :tenant AND s.id = :session_id AND (s.expires_at IS NULL OR s.expires_at > :now)
    ))
    AND (:expected IS NULL OR t.version = :expected)
RETURNING id, session_id, user_id, title, metadata, version, created_at, updated_at;

-- name: patch_thread
-- hot: the merge of patch_session.
UPDATE holdfast_threads AS t SET
    metadata = (
        SELECT CASE
            WHEN rest.text = '{}' THEN :changes
            WHEN :changes = '{}' THEN rest.text
            ELSE substr(rest.text, 1, length(rest.text) - 1) || ',' || substr(:changes, 2)
        END
        FROM (SELECT json_patch(t.metadata, :touched) AS text) AS rest
    ),
    version = version + 1, updated_at = max(updated_at, :now)
WHERE t.tenant_id = :tenant AND t.id = :id AND NOT EXISTS (
        SELECT 1 FROM holdfast_sessions AS s
        WHERE s.tenant_id = t.tenant_id AND s.id = t.session_id AND s.expires_at <= :now
    )
    AND (:expected IS NULL OR t.version = :expected)
RETURNING id, session_id, user_id, title, metadata, version, created_at, updated_at;

-- name: touch_thread
-- hot: the version counts changes of content only.
UPDATE holdfast_threads AS t SET updated_at = max(t.updated_at, :now)
WHERE t.tenant_id = :tenant AND t.id = :id AND NOT EXISTS (
    SELECT 1 FROM holdfast_sessions AS s
    WHERE s.tenant_id = t.tenant_id AND s.id = t.session_id AND s.expires_at <= :now
)
RETURNING id, session_id, user_id, title, metadata, version, created_at, updated_at;

-- name: delete_thread
-- hot: removes one of an expired session too, but answers as if it had been gone.
DELETE FROM holdfast_threads
WHERE tenant_id = :tenant AND id = :id
RETURNING NOT EXISTS (
    SELECT 1 FROM holdfast_sessions AS s
    WHERE s.tenant_id = holdfast_threads.tenant_id AND s.id = holdfast_threads.session_id AND s.expires_at <= :now
) AS was_there;

-- name: list_session_threads
-- hot: sorts one session's threads, as on PostgreSQL.
SELECT t.id, t.session_id, t.user_id, t.title, t.metadata, t.version, t.created_at, t.updated_at
FROM holdfast_threads AS t
WHERE t.tenant_id = :tenant AND t.session_id = :session_id AND NOT EXISTS (
        SELECT 1 FROM holdfast_sessions AS s
        WHERE s.tenant_id = :tenant AND s.id = :session_id AND s.expires_at <= :now
    )
    AND (:after_time IS NULL OR (t.updated_at, t.id) < (:after_time, :after_id))
    AND (:where IS NULL OR NOT EXISTS (
        SELECT 1 FROM json_tree(:where) WHERE json_tree.key IS NOT NULL AND NOT EXISTS (
            SELECT 1 FROM json_each(t.metadata)
            WHERE json_each.key = json_tree.key AND json_each.atom IS json_tree.atom AND (
                json_each.type = json_tree.type
                OR json_each.type IN ('integer', 'real') AND json_tree.type IN ('integer', 'real')
            )
        )
    ))
ORDER BY t.updated_at DESC, t.id DESC LIMIT :limit;

-- name: list_user_threads
-- hot: sorts one user's threads, as on PostgreSQL.
SELECT t.id, t.session_id, t.user_id, t.title, t.metadata, t.version, t.created_at, t.updated_at
FROM holdfast_threads AS t
WHERE t.tenant_id = :tenant AND t.user_id = :user_id AND NOT EXISTS (
        SELECT 1 FROM holdfast_sessions AS s
        WHERE s.tenant_id = t.tenant_id AND s.id = t.session_id AND s.expires_at <= :now
    )
    AND (:after_time IS NULL OR (t.updated_at, t.id) < (:after_time, :after_id))
    AND (:where IS NULL OR NOT EXISTS (
        SELECT 1 FROM json_tree(:where) WHERE json_tree.key IS NOT NULL AND NOT EXISTS (
            SELECT 1 FROM json_each(t.metadata)
            WHERE json_each.key = json_tree.key AND json_each.atom IS json_tree.atom AND (
                json_each.type = json_tree.type
                OR json_each.type IN ('integer', 'real') AND json_tree.type IN ('integer', 'real')
            )
        )
    ))
ORDER BY t.updated_at DESC, t.id DESC LIMIT :limit;
