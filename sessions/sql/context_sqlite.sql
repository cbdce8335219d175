-- Each statement takes :tenant and :user_id, '' for what all users share, and what needs a clock :now, ours in
-- microseconds. Expired is what has expires_at <= :now: it is not there for any statement, cleaned up or not.

-- name: context_push
-- hot: as on PostgreSQL: nothing comes back when :expected = 0 meets an item, or when :agent may not post.
INSERT INTO holdfast_items AS i
    (tenant_id, user_id, namespace, key, value, topics, subscribers, version, ttl_micros, expires_at, created_at,
     updated_at)
SELECT :tenant, :user_id, :namespace, :key, :value, :topics, :subscribers, 1, :ttl, :now + :ttl, :now, :now
WHERE :agent IS NULL OR NOT EXISTS (
    SELECT 1 FROM holdfast_context_agents AS a
    WHERE a.tenant_id = :tenant AND a.user_id = :user_id AND a.agent = :agent AND a.permissions IS NOT NULL
        AND (:topics = '[]' OR EXISTS (
            SELECT 1 FROM json_each(:topics) WHERE value NOT IN (SELECT value FROM json_each(a.permissions))
        ))
)
ON CONFLICT (tenant_id, user_id, namespace, key) DO UPDATE SET
    value = excluded.value, topics = excluded.topics, subscribers = excluded.subscribers,
    version = CASE WHEN i.expires_at <= excluded.updated_at THEN 1 ELSE i.version + 1 END,
    ttl_micros = excluded.ttl_micros, expires_at = excluded.expires_at,
    created_at = CASE WHEN i.expires_at <= excluded.updated_at THEN excluded.created_at ELSE i.created_at END,
    updated_at = max(i.updated_at, excluded.updated_at)
WHERE :expected IS NULL OR i.expires_at <= :now
RETURNING key, value, topics, subscribers, version, ttl_micros, expires_at, created_at, updated_at;

-- name: context_replace
-- hot: changes an item of the expected version only; the permission is that of context_push.
UPDATE holdfast_items AS i SET
    value = :value, topics = :topics, subscribers = :subscribers, version = version + 1, ttl_micros = :ttl,
    expires_at = :now + :ttl, updated_at = max(updated_at, :now)
WHERE i.tenant_id = :tenant AND i.user_id = :user_id AND i.namespace = :namespace AND i.key = :key
    AND i.version = :expected AND (i.expires_at IS NULL OR i.expires_at > :now)
    AND (:agent IS NULL OR NOT EXISTS (
        SELECT 1 FROM holdfast_context_agents AS a
        WHERE a.tenant_id = :tenant AND a.user_id = :user_id AND a.agent = :agent AND a.permissions IS NOT NULL
            AND (:topics = '[]' OR EXISTS (
                SELECT 1 FROM json_each(:topics) WHERE value NOT IN (SELECT value FROM json_each(a.permissions))
            ))
    ))
RETURNING key, value, topics, subscribers, version, ttl_micros, expires_at, created_at, updated_at;

-- name: context_import
-- hot: writes an item as it was exported, its times included.
INSERT INTO holdfast_items AS i
    (tenant_id, user_id, namespace, key, value, topics, subscribers, version, ttl_micros, expires_at, created_at,
     updated_at)
VALUES (:tenant, :user_id, :namespace, :key, :value, :topics, :subscribers, 1, :ttl, :expires_at, :created_at, :now)
ON CONFLICT (tenant_id, user_id, namespace, key) DO UPDATE SET
    value = excluded.value, topics = excluded.topics, subscribers = excluded.subscribers, version = i.version + 1,
    ttl_micros = excluded.ttl_micros, expires_at = excluded.expires_at, created_at = excluded.created_at,
    updated_at = max(i.updated_at, excluded.updated_at);

-- name: context_get
-- hot: as on PostgreSQL.
SELECT i.key, i.value, i.topics, i.subscribers, i.version, i.ttl_micros, i.expires_at, i.created_at, i.updated_at
FROM holdfast_items AS i
WHERE i.tenant_id = :tenant AND i.user_id = :user_id AND i.namespace = :namespace AND i.key = :key
    AND (i.expires_at IS NULL OR i.expires_at > :now)
    AND (:agent IS NULL OR (i.topics = '[]' AND i.subscribers = '[]')
        OR EXISTS (SELECT 1 FROM json_each(i.subscribers) WHERE value = :agent)
        OR EXISTS (
            SELECT 1 FROM json_each(i.topics) WHERE value IN (
                SELECT value FROM json_each((
                    SELECT a.topics FROM holdfast_context_agents AS a
                    WHERE a.tenant_id = :tenant AND a.user_id = :user_id AND a.agent = :agent
                ))
            )
        ));

-- name: list_context_items
-- hot: as on PostgreSQL.
SELECT i.key, i.value, i.topics, i.subscribers, i.version, i.ttl_micros, i.expires_at, i.created_at, i.updated_at
FROM holdfast_items AS i
WHERE i.tenant_id = :tenant AND i.user_id = :user_id AND i.namespace = :namespace AND i.key > :after
    AND (i.expires_at IS NULL OR i.expires_at > :now)
    AND (:topic IS NULL OR EXISTS (SELECT 1 FROM json_each(i.topics) WHERE value = :topic))
    AND (:agent IS NULL OR (i.topics = '[]' AND i.subscribers = '[]')
        OR EXISTS (SELECT 1 FROM json_each(i.subscribers) WHERE value = :agent)
        OR EXISTS (
            SELECT 1 FROM json_each(i.topics) WHERE value IN (
                SELECT value FROM json_each((
                    SELECT a.topics FROM holdfast_context_agents AS a
                    WHERE a.tenant_id = :tenant AND a.user_id = :user_id AND a.agent = :agent
                ))
            )
        ))
ORDER BY i.key LIMIT :limit;

-- name: context_delete
-- hot: removes an expired one too, but answers as if it had been gone.
-- COALESCE, because IS NULL in RETURNING is wrongly false in SQLite 3.40.
DELETE FROM holdfast_items
WHERE tenant_id = :tenant AND user_id = :user_id AND namespace = :namespace AND key = :key
RETURNING COALESCE(expires_at > :now, 1) AS was_there;

-- name: context_set_topics
-- hot: replaces the list; permissions stay.
INSERT INTO holdfast_context_agents (tenant_id, user_id, agent, topics, updated_at)
VALUES (:tenant, :user_id, :agent, :topics, :now)
ON CONFLICT (tenant_id, user_id, agent) DO UPDATE SET topics = excluded.topics, updated_at = excluded.updated_at
RETURNING topics;

-- name: context_add_topics
-- hot: appends what isn't there yet.
INSERT INTO holdfast_context_agents AS a (tenant_id, user_id, agent, topics, updated_at)
VALUES (:tenant, :user_id, :agent, :topics, :now)
ON CONFLICT (tenant_id, user_id, agent) DO UPDATE SET
    topics = (
        SELECT json_group_array(value) FROM (
            SELECT value FROM json_each(a.topics)
            UNION ALL
            SELECT value FROM json_each(excluded.topics) WHERE value NOT IN (SELECT value FROM json_each(a.topics))
        )
    ),
    updated_at = excluded.updated_at
RETURNING topics;

-- name: context_remove_topics
-- hot: takes out what is named.
UPDATE holdfast_context_agents SET
    topics = (
        SELECT json_group_array(value) FROM (
            SELECT value FROM json_each(holdfast_context_agents.topics)
            WHERE value NOT IN (SELECT value FROM json_each(:topics))
        )
    ),
    updated_at = :now
WHERE tenant_id = :tenant AND user_id = :user_id AND agent = :agent
RETURNING topics;

-- name: context_set_permissions
-- hot: replaces the list; topics stay.
INSERT INTO holdfast_context_agents (tenant_id, user_id, agent, topics, permissions, updated_at)
VALUES (:tenant, :user_id, :agent, '[]', :permissions, :now)
ON CONFLICT (tenant_id, user_id, agent) DO UPDATE SET
    permissions = excluded.permissions, updated_at = excluded.updated_at;

-- name: context_import_agent
-- hot: replaces both lists.
INSERT INTO holdfast_context_agents (tenant_id, user_id, agent, topics, permissions, updated_at)
VALUES (:tenant, :user_id, :agent, :topics, :permissions, :now)
ON CONFLICT (tenant_id, user_id, agent) DO UPDATE SET
    topics = excluded.topics, permissions = excluded.permissions, updated_at = excluded.updated_at;

-- name: context_agent
-- hot: one probe of the primary key.
SELECT agent, topics, permissions FROM holdfast_context_agents
WHERE tenant_id = :tenant AND user_id = :user_id AND agent = :agent;

-- name: list_context_agents
-- hot: as on PostgreSQL.
SELECT agent, topics, permissions FROM holdfast_context_agents
WHERE tenant_id = :tenant AND user_id = :user_id AND agent > :after AND (topics <> '[]' OR permissions IS NOT NULL)
    AND (:topic IS NULL OR EXISTS (SELECT 1 FROM json_each(topics) WHERE value = :topic))
ORDER BY agent LIMIT :limit;

-- name: list_context_topics
-- The topics that somebody listens to or an item has, of one user; what UNION has gathered is scanned.
SELECT topic FROM (
    SELECT json_each.value AS topic FROM holdfast_context_agents AS a, json_each(a.topics)
    WHERE a.tenant_id = :tenant AND a.user_id = :user_id
    UNION
    SELECT json_each.value FROM holdfast_items AS i, json_each(i.topics)
    WHERE i.tenant_id = :tenant AND i.user_id = :user_id AND i.namespace = :namespace
        AND (i.expires_at IS NULL OR i.expires_at > :now)
) AS found
WHERE topic > :after
ORDER BY topic LIMIT :limit;

-- name: context_delete_topic
-- hot: an item that nothing else addresses goes, since without its topic everybody could read it.
DELETE FROM holdfast_items
WHERE tenant_id = :tenant AND user_id = :user_id AND namespace = :namespace AND subscribers = '[]'
    AND json_array_length(topics) = 1 AND json_extract(topics, '$[0]') = :topic
RETURNING COALESCE(expires_at > :now, 1) AS was_there;

-- name: context_drop_item_topic
-- hot: the second of the three statements that one of PostgreSQL is.
UPDATE holdfast_items SET
    topics = (SELECT json_group_array(value) FROM json_each(holdfast_items.topics) WHERE value <> :topic),
    version = version + 1, updated_at = max(updated_at, :now)
WHERE tenant_id = :tenant AND user_id = :user_id AND namespace = :namespace
    AND EXISTS (SELECT 1 FROM json_each(topics) WHERE value = :topic);

-- name: context_drop_agent_topic
-- hot: the third.
UPDATE holdfast_context_agents SET
    topics = (SELECT json_group_array(value) FROM json_each(holdfast_context_agents.topics) WHERE value <> :topic),
    permissions = CASE WHEN permissions IS NOT NULL THEN (
        SELECT json_group_array(value) FROM json_each(holdfast_context_agents.permissions) WHERE value <> :topic
    ) END,
    updated_at = :now
WHERE tenant_id = :tenant AND user_id = :user_id;

-- name: context_delete_expired
-- hot: one user's items, by the primary key.
DELETE FROM holdfast_items
WHERE tenant_id = :tenant AND user_id = :user_id AND namespace = :namespace AND key IN (
    SELECT key FROM holdfast_items
    WHERE tenant_id = :tenant AND user_id = :user_id AND namespace = :namespace AND expires_at <= :now
    ORDER BY key LIMIT :limit
);

-- name: item_delete_expired
-- hot: every user's items of the tenant, of whatever namespace, from the old end of the expiry index.
DELETE FROM holdfast_items
WHERE tenant_id = :tenant AND (user_id, namespace, key) IN (
    SELECT user_id, namespace, key FROM holdfast_items
    WHERE tenant_id = :tenant AND expires_at <= :now
    ORDER BY expires_at LIMIT :limit
);

-- name: context_clear
-- hot: one user's items; context_clear_agents follows in the same transaction.
DELETE FROM holdfast_items
WHERE tenant_id = :tenant AND user_id = :user_id AND namespace = :namespace
RETURNING COALESCE(expires_at > :now, 1) AS was_there;

-- name: context_clear_agents
-- hot: one user's topics and permissions.
DELETE FROM holdfast_context_agents WHERE tenant_id = :tenant AND user_id = :user_id;

-- name: context_stats
-- hot: counts one user's items and agents.
SELECT COALESCE(sum(is_live), 0) AS items, COALESCE(sum(NOT is_live), 0) AS expired,
    COALESCE(sum(is_live AND is_shared), 0) AS for_everybody,
    (SELECT count(*) FROM holdfast_context_agents AS a
     WHERE a.tenant_id = :tenant AND a.user_id = :user_id AND a.topics <> '[]') AS listening_agents
FROM (
    SELECT COALESCE(expires_at > :now, 1) AS is_live, topics = '[]' AND subscribers = '[]' AS is_shared
    FROM holdfast_items
    WHERE tenant_id = :tenant AND user_id = :user_id AND namespace = :namespace
) AS i;
