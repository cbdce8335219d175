-- State beside the session, as items: one row a key, those of a user under the user, the application's under ''.

-- name: load_state
-- hot: the session, and what its user and the application share; one row without a key where they share nothing.
SELECT s.id, s.user_id, s.title, s.metadata, s.version, s.sliding_micros, s.expires_at, s.created_at, s.updated_at,
    CASE i.user_id WHEN '' THEN 'app' ELSE 'user' END AS scope, i.key, i.value
FROM holdfast_sessions AS s
LEFT JOIN holdfast_items AS i
    ON i.tenant_id = :tenant AND i.user_id IN ('', s.user_id) AND i.namespace = :namespace
WHERE s.tenant_id = :tenant AND s.id = :id AND (s.expires_at IS NULL OR s.expires_at > :now)
ORDER BY i.user_id, i.key;

-- name: put_state
-- One row a key.
INSERT INTO holdfast_items
    (tenant_id, user_id, namespace, key, value, topics, subscribers, version, created_at, updated_at)
SELECT :tenant, CASE json_each.value ->> 'scope' WHEN 'user' THEN s.user_id ELSE '' END, :namespace,
    json_each.value ->> 'key', json_each.value ->> 'value', '[]', '[]', 1, :now, :now
FROM json_each(:rows), holdfast_sessions AS s
WHERE s.tenant_id = :tenant AND s.id = :id AND json_each.value ->> 'value' IS NOT NULL
ON CONFLICT (tenant_id, user_id, namespace, key) DO UPDATE SET
    value = excluded.value, version = version + 1, updated_at = max(updated_at, excluded.updated_at);

-- name: delete_state
-- The keys whose value is None.
DELETE FROM holdfast_items
WHERE tenant_id = :tenant AND namespace = :namespace AND (user_id, key) IN (
    SELECT CASE json_each.value ->> 'scope' WHEN 'user' THEN s.user_id ELSE '' END, json_each.value ->> 'key'
    FROM json_each(:rows), holdfast_sessions AS s
    WHERE s.tenant_id = :tenant AND s.id = :id AND json_each.value ->> 'value' IS NULL
);
