-- Each statement takes :tenant and :user_id, '' for what all users share. Expired is what has expires_at <= the
-- statement's time: it is not there for any statement, whether it was cleaned up or not.

-- name: context_push
-- hot: an upsert by the primary key. An expired item begins anew. No row comes back when :expected = 0 meets an item, or
-- when :agent may not post: an agent with permissions must name topics, all of them permitted.
INSERT INTO holdfast_items AS i
    (tenant_id, user_id, namespace, key, value, topics, subscribers, version, ttl_micros, expires_at, created_at,
     updated_at)
SELECT :tenant, :user_id, :namespace, :key, CAST(:value AS json), CAST(:topics AS text[]),
    CAST(:subscribers AS text[]), 1, CAST(:ttl AS bigint),
    statement_timestamp() + CAST(:ttl AS bigint) * INTERVAL '1 microsecond', statement_timestamp(),
    statement_timestamp()
WHERE CAST(:agent AS text) IS NULL OR NOT EXISTS (
    SELECT 1 FROM holdfast_context_agents AS a
    WHERE a.tenant_id = :tenant AND a.user_id = :user_id AND a.agent = CAST(:agent AS text)
        AND a.permissions IS NOT NULL
        AND (CAST(:topics AS text[]) = '{}' OR NOT CAST(:topics AS text[]) <@ a.permissions)
)
ON CONFLICT (tenant_id, user_id, namespace, key) DO UPDATE SET
    value = excluded.value, fields = NULL, topics = excluded.topics, subscribers = excluded.subscribers,
    version = CASE WHEN i.expires_at <= statement_timestamp() THEN 1 ELSE i.version + 1 END,
    ttl_micros = excluded.ttl_micros, expires_at = excluded.expires_at,
    created_at = CASE WHEN i.expires_at <= statement_timestamp() THEN excluded.created_at ELSE i.created_at END,
    updated_at = greatest(i.updated_at, excluded.updated_at)
WHERE CAST(:expected AS bigint) IS NULL OR i.expires_at <= statement_timestamp()
RETURNING key, CAST(value AS text) AS value, topics, subscribers, version, ttl_micros, expires_at, created_at,
    updated_at;

-- name: context_replace
-- hot: changes an item of the expected version only; the permission is that of context_push.
UPDATE holdfast_items AS i SET
    value = CAST(:value AS json), fields = NULL, topics = CAST(:topics AS text[]),
    subscribers = CAST(:subscribers AS text[]), version = i.version + 1, ttl_micros = CAST(:ttl AS bigint),
    expires_at = statement_timestamp() + CAST(:ttl AS bigint) * INTERVAL '1 microsecond',
    updated_at = greatest(i.updated_at, statement_timestamp())
WHERE i.tenant_id = :tenant AND i.user_id = :user_id AND i.namespace = :namespace AND i.key = :key
    AND i.version = CAST(:expected AS bigint) AND (i.expires_at IS NULL OR i.expires_at > statement_timestamp())
    AND (CAST(:agent AS text) IS NULL OR NOT EXISTS (
        SELECT 1 FROM holdfast_context_agents AS a
        WHERE a.tenant_id = :tenant AND a.user_id = :user_id AND a.agent = CAST(:agent AS text)
            AND a.permissions IS NOT NULL
            AND (CAST(:topics AS text[]) = '{}' OR NOT CAST(:topics AS text[]) <@ a.permissions)
    ))
RETURNING i.key, CAST(i.value AS text) AS value, i.topics, i.subscribers, i.version, i.ttl_micros, i.expires_at,
    i.created_at, i.updated_at;

-- name: context_import
-- hot: writes an item as it was exported, its times included.
INSERT INTO holdfast_items AS i
    (tenant_id, user_id, namespace, key, value, topics, subscribers, version, ttl_micros, expires_at, created_at,
     updated_at)
VALUES (:tenant, :user_id, :namespace, :key, CAST(:value AS json), CAST(:topics AS text[]),
    CAST(:subscribers AS text[]), 1, CAST(:ttl AS bigint), CAST(:expires_at AS timestamptz),
    CAST(:created_at AS timestamptz), statement_timestamp())
ON CONFLICT (tenant_id, user_id, namespace, key) DO UPDATE SET
    value = excluded.value, fields = NULL, topics = excluded.topics, subscribers = excluded.subscribers,
    version = i.version + 1, ttl_micros = excluded.ttl_micros, expires_at = excluded.expires_at,
    created_at = excluded.created_at, updated_at = greatest(i.updated_at, excluded.updated_at);

-- name: context_get
-- hot: one probe of each primary key. Without :agent whatever is there; for an agent, what is addressed to nobody, to
-- it, or to a topic that it listens to now.
SELECT i.key, CAST(i.value AS text) AS value, i.topics, i.subscribers, i.version, i.ttl_micros, i.expires_at,
    i.created_at, i.updated_at
FROM holdfast_items AS i
WHERE i.tenant_id = :tenant AND i.user_id = :user_id AND i.namespace = :namespace AND i.key = :key
    AND (i.expires_at IS NULL OR i.expires_at > statement_timestamp())
    AND (CAST(:agent AS text) IS NULL OR (i.topics = '{}' AND i.subscribers = '{}')
        OR CAST(:agent AS text) = ANY (i.subscribers)
        OR i.topics && (
            SELECT a.topics FROM holdfast_context_agents AS a
            WHERE a.tenant_id = :tenant AND a.user_id = :user_id AND a.agent = CAST(:agent AS text)
        ));

-- name: list_context_items
-- hot: walks one user's items in the order of the primary key; :agent as in context_get.
SELECT i.key, CAST(i.value AS text) AS value, i.topics, i.subscribers, i.version, i.ttl_micros, i.expires_at,
    i.created_at, i.updated_at
FROM holdfast_items AS i
WHERE i.tenant_id = :tenant AND i.user_id = :user_id AND i.namespace = :namespace AND i.key > :after
    AND (i.expires_at IS NULL OR i.expires_at > statement_timestamp())
    AND (CAST(:topic AS text) IS NULL OR CAST(:topic AS text) = ANY (i.topics))
    AND (CAST(:agent AS text) IS NULL OR (i.topics = '{}' AND i.subscribers = '{}')
        OR CAST(:agent AS text) = ANY (i.subscribers)
        OR i.topics && (
            SELECT a.topics FROM holdfast_context_agents AS a
            WHERE a.tenant_id = :tenant AND a.user_id = :user_id AND a.agent = CAST(:agent AS text)
        ))
ORDER BY i.key LIMIT :limit;

-- name: context_delete
-- hot: removes an expired one too, but answers as if it had been gone.
DELETE FROM holdfast_items
WHERE tenant_id = :tenant AND user_id = :user_id AND namespace = :namespace AND key = :key
RETURNING expires_at IS NULL OR expires_at > statement_timestamp() AS was_there;

-- name: context_set_topics
-- hot: replaces the list; permissions stay.
INSERT INTO holdfast_context_agents (tenant_id, user_id, agent, topics, updated_at)
VALUES (:tenant, :user_id, :agent, CAST(:topics AS text[]), statement_timestamp())
ON CONFLICT (tenant_id, user_id, agent) DO UPDATE SET topics = excluded.topics, updated_at = excluded.updated_at
RETURNING topics;

-- name: context_add_topics
-- hot: appends what isn't there yet, under the row lock, so that two callers both count.
INSERT INTO holdfast_context_agents AS a (tenant_id, user_id, agent, topics, updated_at)
VALUES (:tenant, :user_id, :agent, CAST(:topics AS text[]), statement_timestamp())
ON CONFLICT (tenant_id, user_id, agent) DO UPDATE SET
    topics = a.topics || ARRAY(
        SELECT t.topic FROM unnest(excluded.topics) WITH ORDINALITY AS t (topic, place)
        WHERE t.topic <> ALL (a.topics) ORDER BY t.place
    ),
    updated_at = excluded.updated_at
RETURNING topics;

-- name: context_remove_topics
-- hot: takes out what is named, under the row lock.
UPDATE holdfast_context_agents AS a SET
    topics = ARRAY(
        SELECT t.topic FROM unnest(a.topics) WITH ORDINALITY AS t (topic, place)
        WHERE t.topic <> ALL (CAST(:topics AS text[])) ORDER BY t.place
    ),
    updated_at = statement_timestamp()
WHERE a.tenant_id = :tenant AND a.user_id = :user_id AND a.agent = :agent
RETURNING a.topics;

-- name: context_set_permissions
-- hot: replaces the list; topics stay.
INSERT INTO holdfast_context_agents (tenant_id, user_id, agent, topics, permissions, updated_at)
VALUES (:tenant, :user_id, :agent, '{}', CAST(:permissions AS text[]), statement_timestamp())
ON CONFLICT (tenant_id, user_id, agent) DO UPDATE SET
    permissions = excluded.permissions, updated_at = excluded.updated_at;

-- name: context_import_agent
-- hot: replaces both lists.
INSERT INTO holdfast_context_agents (tenant_id, user_id, agent, topics, permissions, updated_at)
VALUES (:tenant, :user_id, :agent, CAST(:topics AS text[]), CAST(:permissions AS text[]), statement_timestamp())
ON CONFLICT (tenant_id, user_id, agent) DO UPDATE SET
    topics = excluded.topics, permissions = excluded.permissions, updated_at = excluded.updated_at;

-- name: context_agent
-- hot: one probe of the primary key.
SELECT agent, topics, permissions FROM holdfast_context_agents
WHERE tenant_id = :tenant AND user_id = :user_id AND agent = :agent;

-- name: list_context_agents
-- hot: walks one user's agents in the order of the primary key. Who neither listens nor is limited is not there.
SELECT agent, topics, permissions FROM holdfast_context_agents
WHERE tenant_id = :tenant AND user_id = :user_id AND agent > :after AND (topics <> '{}' OR permissions IS NOT NULL)
    AND (CAST(:topic AS text) IS NULL OR CAST(:topic AS text) = ANY (topics))
ORDER BY agent LIMIT :limit;

-- name: list_context_topics
-- hot: the topics that somebody listens to or an item has, of one user.
SELECT topic FROM (
    SELECT unnest(a.topics) AS topic FROM holdfast_context_agents AS a
    WHERE a.tenant_id = :tenant AND a.user_id = :user_id
    UNION
    SELECT unnest(i.topics) FROM holdfast_items AS i
    WHERE i.tenant_id = :tenant AND i.user_id = :user_id AND i.namespace = :namespace
        AND (i.expires_at IS NULL OR i.expires_at > statement_timestamp())
) AS found
WHERE topic COLLATE "C" > :after
ORDER BY topic COLLATE "C" LIMIT :limit;

-- name: context_delete_topic
-- hot: an item that nothing else addresses goes, since without its topic everybody could read it; others lose the topic.
WITH gone AS (
    DELETE FROM holdfast_items
    WHERE tenant_id = :tenant AND user_id = :user_id AND namespace = :namespace
        AND topics = ARRAY[CAST(:topic AS text)] AND subscribers = '{}'
    RETURNING expires_at
), kept AS (
    UPDATE holdfast_items SET topics = array_remove(topics, CAST(:topic AS text)), version = version + 1,
        updated_at = greatest(updated_at, statement_timestamp())
    WHERE tenant_id = :tenant AND user_id = :user_id AND namespace = :namespace
        AND CAST(:topic AS text) = ANY (topics)
        AND NOT (topics = ARRAY[CAST(:topic AS text)] AND subscribers = '{}')
), agents AS (
    UPDATE holdfast_context_agents SET topics = array_remove(topics, CAST(:topic AS text)),
        permissions = array_remove(permissions, CAST(:topic AS text)), updated_at = statement_timestamp()
    WHERE tenant_id = :tenant AND user_id = :user_id
        AND (CAST(:topic AS text) = ANY (topics) OR CAST(:topic AS text) = ANY (permissions))
)
SELECT count(*) FROM gone WHERE expires_at IS NULL OR expires_at > statement_timestamp();

-- name: context_delete_expired
-- hot: one user's items, by the primary key. Who is being written is skipped.
WITH expired AS (
    SELECT key FROM holdfast_items
    WHERE tenant_id = :tenant AND user_id = :user_id AND namespace = :namespace
        AND expires_at <= statement_timestamp()
    ORDER BY key LIMIT :limit
    FOR UPDATE SKIP LOCKED
)
DELETE FROM holdfast_items AS i USING expired
WHERE i.tenant_id = :tenant AND i.user_id = :user_id AND i.namespace = :namespace AND i.key = expired.key;

-- name: item_delete_expired
-- hot: every user's items of the tenant, of whatever namespace, from the old end of the expiry index.
WITH expired AS (
    SELECT user_id, namespace, key FROM holdfast_items
    WHERE tenant_id = :tenant AND expires_at <= statement_timestamp()
    ORDER BY expires_at LIMIT :limit
    FOR UPDATE SKIP LOCKED
)
DELETE FROM holdfast_items AS i USING expired
WHERE i.tenant_id = :tenant AND i.user_id = expired.user_id AND i.namespace = expired.namespace
    AND i.key = expired.key;

-- name: context_is_hidden
-- Whether row-level security holds for this role, so that a statement of no user finds nothing.
SELECT row_security_active('holdfast_items');

-- name: context_clear
-- hot: one user's items, topics and permissions, and nobody else's.
WITH agents AS (
    DELETE FROM holdfast_context_agents WHERE tenant_id = :tenant AND user_id = :user_id
), gone AS (
    DELETE FROM holdfast_items WHERE tenant_id = :tenant AND user_id = :user_id AND namespace = :namespace
    RETURNING expires_at
)
SELECT count(*) FROM gone WHERE expires_at IS NULL OR expires_at > statement_timestamp();

-- name: context_stats
-- hot: counts one user's items and agents.
SELECT count(*) FILTER (WHERE i.is_live) AS items, count(*) FILTER (WHERE NOT i.is_live) AS expired,
    count(*) FILTER (WHERE i.is_live AND i.is_shared) AS for_everybody,
    (SELECT count(*) FROM holdfast_context_agents AS a
     WHERE a.tenant_id = :tenant AND a.user_id = :user_id AND a.topics <> '{}') AS listening_agents
FROM (
    SELECT expires_at IS NULL OR expires_at > statement_timestamp() AS is_live,
        topics = '{}' AND subscribers = '{}' AS is_shared
    FROM holdfast_items
    WHERE tenant_id = :tenant AND user_id = :user_id AND namespace = :namespace
) AS i;

-- name: context_scope_to
-- Tells the policies of row-level security whose rows the rest of the transaction may see.
SELECT set_config('holdfast.tenant_id', :tenant, true), set_config('holdfast.user_id', :user_id, true);

-- name: context_protect_items
-- Row-level security holds for every role but the table's owner and superusers, however its SQL was written.
ALTER TABLE holdfast_items ENABLE ROW LEVEL SECURITY;

-- name: context_protect_agents
-- As context_protect_items.
ALTER TABLE holdfast_context_agents ENABLE ROW LEVEL SECURITY;

-- name: context_drop_item_policy
-- So that enabling it twice is enabling it once.
DROP POLICY IF EXISTS holdfast_items_own ON holdfast_items;

-- name: context_drop_agent_policy
-- As context_drop_item_policy.
DROP POLICY IF EXISTS holdfast_context_agents_own ON holdfast_context_agents;

-- name: context_create_item_policy
-- Without the settings nothing is seen: a comparison with NULL is not true. It holds for what is written too.
CREATE POLICY holdfast_items_own ON holdfast_items
    USING (tenant_id = current_setting('holdfast.tenant_id', true) AND user_id = current_setting('holdfast.user_id', true));

-- name: context_create_agent_policy
-- As context_create_item_policy.
CREATE POLICY holdfast_context_agents_own ON holdfast_context_agents
    USING (tenant_id = current_setting('holdfast.tenant_id', true) AND user_id = current_setting('holdfast.user_id', true));

-- name: context_unprotect_items
-- Undoes context_protect_items.
ALTER TABLE holdfast_items DISABLE ROW LEVEL SECURITY;

-- name: context_unprotect_agents
-- Undoes context_protect_agents.
ALTER TABLE holdfast_context_agents DISABLE ROW LEVEL SECURITY;
