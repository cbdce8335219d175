-- State beside the session, as items: one row a key, those of a user under the user, the application's under ''.

-- name: load_state
-- hot: the session, and what its user and the application share; one row without a key where they share nothing.
-- OFFSET 0 has the items looked up by the session's user, where a join might compare all of the namespace.
SELECT s.id, s.user_id, s.title, s.metadata, s.version, s.sliding_micros, s.expires_at, s.created_at, s.updated_at,
    CASE i.user_id WHEN '' THEN 'app' ELSE 'user' END AS scope, i.key, CAST(i.value AS text) AS value
FROM holdfast_sessions AS s
LEFT JOIN LATERAL (
    SELECT o.user_id, o.key, o.value FROM holdfast_items AS o
    WHERE o.tenant_id = :tenant AND o.user_id = ANY (ARRAY['', s.user_id]) AND o.namespace = :namespace
    OFFSET 0
) AS i ON true
WHERE s.tenant_id = :tenant AND s.id = :id AND (s.expires_at IS NULL OR s.expires_at > statement_timestamp())
ORDER BY i.user_id, i.key;

-- name: put_state
-- In the order of the keys, so that two updates can't wait for each other. Those that are removed are written first, too,
-- for their place in it.
INSERT INTO holdfast_items AS i
    (tenant_id, user_id, namespace, key, value, topics, subscribers, version, created_at, updated_at)
SELECT :tenant, CASE r.scope WHEN 'user' THEN s.user_id ELSE '' END, :namespace, r.key,
    CAST(COALESCE(r.value, 'null') AS json), '{}', '{}', 1, statement_timestamp(), statement_timestamp()
FROM holdfast_sessions AS s, json_to_recordset(CAST(:rows AS json)) AS r (scope text, key text, value text)
WHERE s.tenant_id = :tenant AND s.id = :id
ORDER BY r.scope, r.key
ON CONFLICT (tenant_id, user_id, namespace, key) DO UPDATE SET
    value = excluded.value, version = i.version + 1, updated_at = greatest(i.updated_at, excluded.updated_at);

-- name: delete_state
-- The keys whose value is None, after put_state.
DELETE FROM holdfast_items AS i
USING holdfast_sessions AS s, json_to_recordset(CAST(:rows AS json)) AS r (scope text, key text, value text)
WHERE s.tenant_id = :tenant AND s.id = :id AND r.value IS NULL AND i.tenant_id = :tenant
    AND i.user_id = CASE r.scope WHEN 'user' THEN s.user_id ELSE '' END
    AND i.namespace = :namespace AND i.key = r.key;
