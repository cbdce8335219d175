-- Each statement takes :tenant and :scope, and what writes :now, our clock in microseconds. Triggers keep the history, so
-- that a change of nodes is one statement here too; a deletion, of which a trigger can't know who did it, is a batch.

-- name: graph_put_nodes
-- hot: as on PostgreSQL. A merge takes every new key out, then appends the new values as the text that they are.
INSERT INTO holdfast_graph_nodes AS n (
    tenant_id, scope, id, type, attributes, words, version, created_by, updated_by, approved_by, approval_reason,
    created_at, updated_at
)
SELECT :tenant, :scope, json_extract(json_each.value, '$.id'), json_extract(json_each.value, '$.type'),
    json_extract(json_each.value, '$.attributes'), json_extract(json_each.value, '$.words'),
    COALESCE((
        SELECT h.version FROM holdfast_graph_history AS h
        WHERE h.tenant_id = :tenant AND h.scope = :scope AND h.id = json_extract(json_each.value, '$.id')
            AND h.relationship = '' AND h.target = ''
        ORDER BY h.version DESC LIMIT 1
    ), 0) + 1,
    :actor, :actor, :approved_by, :approval_reason, :now, :now
FROM json_each(:rows)
WHERE COALESCE(:expected, 0) = 0 OR EXISTS (
    SELECT 1 FROM holdfast_graph_nodes AS e
    WHERE e.tenant_id = :tenant AND e.scope = :scope AND e.id = json_extract(json_each.value, '$.id')
)
ON CONFLICT (tenant_id, scope, id) DO UPDATE SET
    type = excluded.type,
    attributes = CASE WHEN :replace OR n.attributes = '{}' THEN excluded.attributes
        WHEN excluded.attributes = '{}' THEN n.attributes ELSE (
            SELECT CASE WHEN rest.text = '{}' THEN excluded.attributes
                ELSE substr(rest.text, 1, length(rest.text) - 1) || ',' || substr(excluded.attributes, 2) END
            FROM (
                SELECT json_patch(n.attributes, (
                    SELECT json_group_object(json_each.key, NULL) FROM json_each(excluded.attributes)
                )) AS text
            ) AS rest
        ) END,
    words = CASE WHEN :replace THEN excluded.words ELSE json_patch(n.words, excluded.words) END,
    version = n.version + 1, updated_by = excluded.updated_by, approved_by = excluded.approved_by,
    approval_reason = excluded.approval_reason, updated_at = max(n.updated_at, excluded.updated_at)
WHERE :expected IS NULL OR n.version = :expected
RETURNING id, scope, type, attributes, version, created_by, updated_by, approved_by, approval_reason, created_at,
    updated_at;

-- name: graph_patch_node
-- hot: the merge of patch_session.
UPDATE holdfast_graph_nodes AS n SET
    attributes = (
        SELECT CASE
            WHEN rest.text = '{}' THEN :changes
            WHEN :changes = '{}' THEN rest.text
            ELSE substr(rest.text, 1, length(rest.text) - 1) || ',' || substr(:changes, 2)
        END
        FROM (SELECT json_patch(n.attributes, :touched) AS text) AS rest
    ),
    words = json_patch(json_patch(n.words, :touched), :words),
    version = n.version + 1, updated_by = :actor, approved_by = :approved_by, approval_reason = :approval_reason,
    updated_at = max(n.updated_at, :now)
WHERE n.tenant_id = :tenant AND n.scope = :scope AND n.id = :id AND (:expected IS NULL OR n.version = :expected)
RETURNING id, scope, type, attributes, version, created_by, updated_by, approved_by, approval_reason, created_at,
    updated_at;

-- name: graph_get_node
-- hot: one probe of the primary key.
SELECT n.id, n.scope, n.type, n.attributes, n.version, n.created_by, n.updated_by, n.approved_by, n.approval_reason,
    n.created_at, n.updated_at
FROM holdfast_graph_nodes AS n
WHERE n.tenant_id = :tenant AND n.scope = :scope AND n.id = :id;

-- name: graph_get_nodes
-- hot: one probe of the primary key for each.
SELECT n.id, n.scope, n.type, n.attributes, n.version, n.created_by, n.updated_by, n.approved_by, n.approval_reason,
    n.created_at, n.updated_at
FROM holdfast_graph_nodes AS n
WHERE n.tenant_id = :tenant AND n.scope = :scope AND n.id IN (SELECT value FROM json_each(:ids));

-- name: graph_delete_history
-- hot: the first of the four statements of a deletion: what is no longer to be known, also of a node that was deleted
-- before; who approved that stays.
DELETE FROM holdfast_graph_history
WHERE tenant_id = :tenant AND scope = :scope AND id = :id AND NOT :keep AND (
    EXISTS (
        SELECT 1 FROM holdfast_graph_nodes AS n
        WHERE n.tenant_id = :tenant AND n.scope = :scope AND n.id = :id AND (:expected IS NULL OR n.version = :expected)
    ) OR :expected IS NULL AND NOT (deleted AND relationship = '' AND approved_by IS NOT NULL)
);

-- name: graph_delete_kept
-- hot: the second: that it was deleted, or only who approved that.
INSERT INTO holdfast_graph_history (
    tenant_id, scope, id, relationship, target, version, type, attributes, deleted, created_by, updated_by, approved_by,
    approval_reason, created_at, updated_at
)
SELECT n.tenant_id, n.scope, n.id, '', '', n.version + 1, n.type, '{}', 1, n.created_by, :actor, :approved_by,
    :approval_reason, n.created_at, max(n.updated_at, :now)
FROM holdfast_graph_nodes AS n
WHERE n.tenant_id = :tenant AND n.scope = :scope AND n.id = :id AND (:expected IS NULL OR n.version = :expected)
    AND (:keep OR :approved_by IS NOT NULL);

-- name: graph_delete_edges
-- hot: the third.
DELETE FROM holdfast_graph_edges
WHERE tenant_id = :tenant AND scope = :scope AND (source = :id OR target = :id) AND EXISTS (
    SELECT 1 FROM holdfast_graph_nodes AS n
    WHERE n.tenant_id = :tenant AND n.scope = :scope AND n.id = :id AND (:expected IS NULL OR n.version = :expected)
)
RETURNING 1;

-- name: graph_delete_node
-- hot: the fourth.
DELETE FROM holdfast_graph_nodes
WHERE tenant_id = :tenant AND scope = :scope AND id = :id AND (:expected IS NULL OR version = :expected)
RETURNING 1;

-- name: graph_forget_history
-- hot: the first of the four statements of graph_forget; each finds the same nodes, since the last one deletes them.
DELETE FROM holdfast_graph_history
WHERE tenant_id = :tenant AND scope = :scope AND id IN (
    SELECT n.id FROM holdfast_graph_nodes AS n
    WHERE n.tenant_id = :tenant AND n.scope = :scope AND n.updated_at < :before AND (:type IS NULL OR n.type = :type)
    ORDER BY n.updated_at, n.id LIMIT :limit
);

-- name: graph_forget_kept
-- hot: the second: who approved it.
INSERT INTO holdfast_graph_history (
    tenant_id, scope, id, relationship, target, version, type, attributes, deleted, created_by, updated_by, approved_by,
    approval_reason, created_at, updated_at
)
SELECT n.tenant_id, n.scope, n.id, '', '', n.version + 1, n.type, '{}', 1, n.created_by, :actor, :approved_by,
    :approval_reason, n.created_at, max(n.updated_at, :now)
FROM holdfast_graph_nodes AS n
WHERE n.tenant_id = :tenant AND n.scope = :scope AND n.updated_at < :before AND (:type IS NULL OR n.type = :type)
    AND :approved_by IS NOT NULL
ORDER BY n.updated_at, n.id LIMIT :limit;

-- name: graph_forget_edges
-- hot: the third; the inner list is one of ids, so that each end is found by its own index.
DELETE FROM holdfast_graph_edges
WHERE tenant_id = :tenant AND scope = :scope AND (
    source IN (
        SELECT n.id FROM holdfast_graph_nodes AS n
        WHERE n.tenant_id = :tenant AND n.scope = :scope AND n.updated_at < :before
            AND (:type IS NULL OR n.type = :type)
        ORDER BY n.updated_at, n.id LIMIT :limit
    ) OR target IN (
        SELECT n.id FROM holdfast_graph_nodes AS n
        WHERE n.tenant_id = :tenant AND n.scope = :scope AND n.updated_at < :before
            AND (:type IS NULL OR n.type = :type)
        ORDER BY n.updated_at, n.id LIMIT :limit
    )
)
RETURNING 1;

-- name: graph_forget
-- hot: the fourth.
DELETE FROM holdfast_graph_nodes
WHERE tenant_id = :tenant AND scope = :scope AND id IN (
    SELECT n.id FROM holdfast_graph_nodes AS n
    WHERE n.tenant_id = :tenant AND n.scope = :scope AND n.updated_at < :before AND (:type IS NULL OR n.type = :type)
    ORDER BY n.updated_at, n.id LIMIT :limit
)
RETURNING 1;

-- name: graph_put_edges
-- hot: as on PostgreSQL.
INSERT INTO holdfast_graph_edges AS e (
    tenant_id, scope, source, relationship, target, weight, attributes, version, created_by, updated_by, approved_by,
    approval_reason, created_at, updated_at
)
SELECT :tenant, :scope, json_extract(json_each.value, '$.source'), json_extract(json_each.value, '$.relationship'),
    json_extract(json_each.value, '$.target'), json_extract(json_each.value, '$.weight'), json_extract(json_each.value, '$.attributes'),
    COALESCE((
        SELECT h.version FROM holdfast_graph_history AS h
        WHERE h.tenant_id = :tenant AND h.scope = :scope AND h.id = json_extract(json_each.value, '$.source')
            AND h.relationship = json_extract(json_each.value, '$.relationship')
            AND h.target = json_extract(json_each.value, '$.target')
        ORDER BY h.version DESC LIMIT 1
    ), 0) + 1,
    :actor, :actor, :approved_by, :approval_reason, :now, :now
FROM json_each(:rows)
WHERE NOT EXISTS (
    SELECT 1 FROM json_each(:ids) WHERE NOT EXISTS (
        SELECT 1 FROM holdfast_graph_nodes AS n WHERE n.tenant_id = :tenant AND n.scope = :scope AND n.id = json_each.value
    )
) AND (COALESCE(:expected, 0) = 0 OR EXISTS (
    SELECT 1 FROM holdfast_graph_edges AS o
    WHERE o.tenant_id = :tenant AND o.scope = :scope AND o.source = json_extract(json_each.value, '$.source')
        AND o.relationship = json_extract(json_each.value, '$.relationship') AND o.target = json_extract(json_each.value, '$.target')
))
ON CONFLICT (tenant_id, scope, source, relationship, target) DO UPDATE SET
    weight = excluded.weight,
    attributes = CASE WHEN :replace OR e.attributes = '{}' THEN excluded.attributes
        WHEN excluded.attributes = '{}' THEN e.attributes ELSE (
            SELECT CASE WHEN rest.text = '{}' THEN excluded.attributes
                ELSE substr(rest.text, 1, length(rest.text) - 1) || ',' || substr(excluded.attributes, 2) END
            FROM (
                SELECT json_patch(e.attributes, (
                    SELECT json_group_object(json_each.key, NULL) FROM json_each(excluded.attributes)
                )) AS text
            ) AS rest
        ) END,
    version = e.version + 1, updated_by = excluded.updated_by, approved_by = excluded.approved_by,
    approval_reason = excluded.approval_reason, updated_at = max(e.updated_at, excluded.updated_at)
WHERE :expected IS NULL OR e.version = :expected
RETURNING scope, source, relationship, target, weight, attributes, version, created_by, updated_by, approved_by,
    approval_reason, created_at, updated_at;

-- name: graph_missing_nodes
-- hot: which of these isn't there, the first in order.
SELECT json_each.value AS id FROM json_each(:ids)
WHERE NOT EXISTS (
    SELECT 1 FROM holdfast_graph_nodes AS n WHERE n.tenant_id = :tenant AND n.scope = :scope AND n.id = json_each.value
)
ORDER BY json_each.value LIMIT 1;

-- name: graph_get_edge
-- hot: one probe of the primary key.
SELECT e.scope, e.source, e.relationship, e.target, e.weight, e.attributes, e.version, e.created_by, e.updated_by,
    e.approved_by, e.approval_reason, e.created_at, e.updated_at
FROM holdfast_graph_edges AS e
WHERE e.tenant_id = :tenant AND e.scope = :scope AND e.source = :source AND e.relationship = :relationship
    AND e.target = :target;

-- name: graph_delete_edge_kept
-- hot: the first of the two statements of a deletion: who approved it.
INSERT INTO holdfast_graph_history (
    tenant_id, scope, id, relationship, target, version, attributes, weight, deleted, created_by, updated_by,
    approved_by, approval_reason, created_at, updated_at
)
SELECT e.tenant_id, e.scope, e.source, e.relationship, e.target, e.version + 1, '{}', e.weight, 1, e.created_by, :actor,
    :approved_by, :approval_reason, e.created_at, max(e.updated_at, :now)
FROM holdfast_graph_edges AS e
WHERE e.tenant_id = :tenant AND e.scope = :scope AND e.source = :source AND e.relationship = :relationship
    AND e.target = :target AND :approved_by IS NOT NULL;

-- name: graph_delete_edge
-- hot: the second.
DELETE FROM holdfast_graph_edges
WHERE tenant_id = :tenant AND scope = :scope AND source = :source AND relationship = :relationship AND target = :target
RETURNING 1;

-- name: list_graph_edges
-- hot: as on PostgreSQL.
SELECT f.scope, f.source, f.relationship, f.target, f.weight, f.attributes, f.version, f.created_by, f.updated_by,
    f.approved_by, f.approval_reason, f.created_at, f.updated_at
FROM (
    SELECT * FROM (
        SELECT 1 AS side, e.target AS other, e.* FROM holdfast_graph_edges AS e
        WHERE e.tenant_id = :tenant AND e.scope = :scope AND e.source = :id AND :outward
            AND (:relationships IS NULL OR e.relationship IN (SELECT value FROM json_each(:relationships)))
            AND (e.relationship, e.target) > (:out_relationship, :out_other)
        ORDER BY e.relationship, e.target LIMIT :limit
    ) AS o
    UNION ALL
    SELECT * FROM (
        SELECT 2 AS side, e.source AS other, e.* FROM holdfast_graph_edges AS e
        WHERE e.tenant_id = :tenant AND e.scope = :scope AND e.target = :id AND :inward
            AND (:loops OR e.source <> :id)
            AND (:relationships IS NULL OR e.relationship IN (SELECT value FROM json_each(:relationships)))
            AND (e.relationship, e.source) > (:in_relationship, :in_other)
        ORDER BY e.relationship, e.source LIMIT :limit
    ) AS i
) AS f
ORDER BY f.side, f.relationship, f.other LIMIT :limit;

-- name: find_graph_nodes
-- hot: newest first, by the index on time.
SELECT n.id, n.scope, n.type, n.attributes, n.version, n.created_by, n.updated_by, n.approved_by, n.approval_reason,
    n.created_at, n.updated_at
FROM holdfast_graph_nodes AS n
WHERE n.tenant_id = :tenant AND n.scope = :scope
    AND (:since IS NULL OR n.updated_at >= :since) AND (:until IS NULL OR n.updated_at < :until)
    AND (:after_time IS NULL OR (n.updated_at, n.id) < (:after_time, :after_id))
    AND (:where IS NULL OR NOT EXISTS (
        SELECT 1 FROM json_tree(:where) WHERE json_tree.key IS NOT NULL AND NOT EXISTS (
            SELECT 1 FROM json_each(n.attributes)
            WHERE json_each.key = json_tree.key AND json_each.atom IS json_tree.atom AND (
                json_each.type = json_tree.type
                OR json_each.type IN ('integer', 'real') AND json_tree.type IN ('integer', 'real')
            )
        )
    ))
ORDER BY n.updated_at DESC, n.id DESC LIMIT :limit;

-- name: find_graph_nodes_of_type
-- hot: newest first, by the index on type and time; SQLite plans before it knows whether a type is given.
SELECT n.id, n.scope, n.type, n.attributes, n.version, n.created_by, n.updated_by, n.approved_by, n.approval_reason,
    n.created_at, n.updated_at
FROM holdfast_graph_nodes AS n
WHERE n.tenant_id = :tenant AND n.scope = :scope AND n.type = :type
    AND (:since IS NULL OR n.updated_at >= :since) AND (:until IS NULL OR n.updated_at < :until)
    AND (:after_time IS NULL OR (n.updated_at, n.id) < (:after_time, :after_id))
    AND (:where IS NULL OR NOT EXISTS (
        SELECT 1 FROM json_tree(:where) WHERE json_tree.key IS NOT NULL AND NOT EXISTS (
            SELECT 1 FROM json_each(n.attributes)
            WHERE json_each.key = json_tree.key AND json_each.atom IS json_tree.atom AND (
                json_each.type = json_tree.type
                OR json_each.type IN ('integer', 'real') AND json_tree.type IN ('integer', 'real')
            )
        )
    ))
ORDER BY n.updated_at DESC, n.id DESC LIMIT :limit;

-- name: list_user_nodes
-- hot: by the index of users.
SELECT n.id, n.scope, n.type, n.attributes, n.version, n.created_by, n.updated_by, n.approved_by, n.approval_reason,
    n.created_at, n.updated_at
FROM holdfast_graph_nodes AS n
WHERE n.tenant_id = :tenant AND n.scope = :scope
    AND CASE WHEN json_valid(n.attributes) THEN n.attributes ->> '$.user_id' END = :user
    AND json_type(n.attributes, '$.user_id') = 'text'
    AND (:after_time IS NULL OR (n.updated_at, n.id) < (:after_time, :after_id))
ORDER BY n.updated_at DESC, n.id DESC LIMIT :limit;

-- name: graph_count
-- Counts the rows of an index.
SELECT count(*) FROM holdfast_graph_nodes AS n
WHERE n.tenant_id = :tenant AND n.scope = :scope AND (:type IS NULL OR n.type = :type);

-- name: graph_count_edges
-- Counts the rows of an index.
SELECT count(*) FROM holdfast_graph_edges AS e
WHERE e.tenant_id = :tenant AND e.scope = :scope AND (:relationship IS NULL OR e.relationship = :relationship);

-- name: search_graph_nodes
-- hot: each word is a range of the primary key of words; those with most of them first.
SELECT n.id, n.scope, n.type, n.attributes, n.version, n.created_by, n.updated_by, n.approved_by, n.approval_reason,
    n.created_at, n.updated_at, f.matched
FROM (
    SELECT w.id, count(*) AS matched FROM holdfast_graph_words AS w
    WHERE w.tenant_id = :tenant AND w.scope = :scope AND w.word IN (SELECT value FROM json_each(:words))
    GROUP BY w.id
) AS f
CROSS JOIN holdfast_graph_nodes AS n ON n.tenant_id = :tenant AND n.scope = :scope AND n.id = f.id
WHERE :type IS NULL OR n.type = :type
ORDER BY f.matched DESC, n.updated_at DESC, n.id DESC LIMIT :limit;

-- name: list_graph_neighbours
-- hot: as on PostgreSQL.
WITH RECURSIVE walk (id, depth) AS (
    SELECT :id, 0
    UNION
    SELECT e.target, walk.depth + 1 FROM walk CROSS JOIN holdfast_graph_edges AS e
    WHERE e.tenant_id = :tenant AND e.scope = :scope AND e.source = walk.id AND :outward AND walk.depth < :depth
        AND (:relationships IS NULL OR e.relationship IN (SELECT value FROM json_each(:relationships)))
    UNION
    SELECT e.source, walk.depth + 1 FROM walk CROSS JOIN holdfast_graph_edges AS e
    WHERE e.tenant_id = :tenant AND e.scope = :scope AND e.target = walk.id AND :inward AND walk.depth < :depth
        AND (:relationships IS NULL OR e.relationship IN (SELECT value FROM json_each(:relationships)))
), nearest AS (
    SELECT walk.id, min(walk.depth) AS depth FROM walk GROUP BY walk.id
    HAVING (min(walk.depth), walk.id) > (:after_depth, :after_id)
    ORDER BY min(walk.depth), walk.id LIMIT :limit
)
SELECT nearest.depth, n.id, n.scope, n.type, n.attributes, n.version, n.created_by, n.updated_by, n.approved_by,
    n.approval_reason, n.created_at, n.updated_at
FROM nearest CROSS JOIN holdfast_graph_nodes AS n
WHERE n.tenant_id = :tenant AND n.scope = :scope AND n.id = nearest.id
ORDER BY nearest.depth, nearest.id LIMIT :limit;

-- name: list_graph_steps
-- hot: as on PostgreSQL.
SELECT e.source AS here, e.target AS there, e.relationship, e.weight
FROM json_each(:ids) CROSS JOIN holdfast_graph_edges AS e
WHERE e.tenant_id = :tenant AND e.scope = :scope AND e.source = json_each.value AND :outward
    AND (:relationships IS NULL OR e.relationship IN (SELECT value FROM json_each(:relationships)))
UNION ALL
SELECT e.target, e.source, e.relationship, e.weight
FROM json_each(:ids) CROSS JOIN holdfast_graph_edges AS e
WHERE e.tenant_id = :tenant AND e.scope = :scope AND e.target = json_each.value AND :inward
    AND (:relationships IS NULL OR e.relationship IN (SELECT value FROM json_each(:relationships)))
ORDER BY 1, 2, 4, 3 LIMIT :limit;

-- name: list_graph_history
-- hot: walks the primary key from the newest version.
SELECT h.id, h.scope, h.relationship, h.target, h.version, h.type, h.attributes, h.weight, h.deleted, h.created_by,
    h.updated_by, h.approved_by, h.approval_reason, h.created_at, h.updated_at
FROM holdfast_graph_history AS h
WHERE h.tenant_id = :tenant AND h.scope = :scope AND h.id = :id AND h.relationship = '' AND h.target = ''
    AND h.version < :before
ORDER BY h.version DESC LIMIT :limit;

-- name: graph_at_version
-- hot: one probe of the primary key.
SELECT h.id, h.scope, h.type, h.attributes, h.deleted, h.version, h.created_by, h.updated_by, h.approved_by,
    h.approval_reason, h.created_at, h.updated_at
FROM holdfast_graph_history AS h
WHERE h.tenant_id = :tenant AND h.scope = :scope AND h.id = :id AND h.relationship = '' AND h.target = ''
    AND h.version = :version;

-- name: graph_at_time
-- hot: the last version at a time, which is the first of a walk back from there.
SELECT h.id, h.scope, h.type, h.attributes, h.deleted, h.version, h.created_by, h.updated_by, h.approved_by,
    h.approval_reason, h.created_at, h.updated_at
FROM holdfast_graph_history AS h
WHERE h.tenant_id = :tenant AND h.scope = :scope AND h.id = :id AND h.relationship = '' AND h.updated_at <= :moment
ORDER BY h.updated_at DESC, h.version DESC LIMIT 1;

-- name: list_graph_approvals
-- hot: walks the index of what was approved, from the newest.
SELECT h.id, h.scope, h.relationship, h.target, h.version, h.type, h.attributes, h.weight, h.deleted, h.created_by,
    h.updated_by, h.approved_by, h.approval_reason, h.created_at, h.updated_at
FROM holdfast_graph_history AS h
WHERE h.tenant_id = :tenant AND h.scope = :scope AND h.approved_by IS NOT NULL
    AND (h.updated_at, h.id, h.relationship, h.target, h.version)
        < (COALESCE(:after_time, 9223372036854775807), :after_id, :after_relationship, :after_target, :after_version)
ORDER BY h.updated_at DESC, h.id DESC, h.relationship DESC, h.target DESC, h.version DESC LIMIT :limit;

-- name: graph_prune_history
-- hot: earlier versions of one node, but not the newest :keep, nor what was approved.
DELETE FROM holdfast_graph_history
WHERE tenant_id = :tenant AND scope = :scope AND id = :id AND relationship = '' AND target = '' AND approved_by IS NULL
    AND version <= (
        SELECT o.version FROM holdfast_graph_history AS o
        WHERE o.tenant_id = :tenant AND o.scope = :scope AND o.id = :id AND o.relationship = '' AND o.target = ''
        ORDER BY o.version DESC LIMIT 1 OFFSET :keep
    );

-- name: list_graph_range
-- hot: nodes whose ids lie in a range of the primary key.
SELECT n.id, n.scope, n.type, n.attributes, n.version, n.created_by, n.updated_by, n.approved_by, n.approval_reason,
    n.created_at, n.updated_at
FROM holdfast_graph_nodes AS n
WHERE n.tenant_id = :tenant AND n.scope = :scope AND n.id >= :from AND n.id > :after AND n.id < :below
ORDER BY n.id LIMIT :limit;

-- name: list_all_graph_nodes
-- hot: a page of every node, by the primary key.
SELECT n.id, n.scope, n.type, n.attributes, n.version, n.created_by, n.updated_by, n.approved_by, n.approval_reason,
    n.created_at, n.updated_at
FROM holdfast_graph_nodes AS n
WHERE n.tenant_id = :tenant AND n.scope = :scope AND n.id > :after
ORDER BY n.id LIMIT :limit;

-- name: list_all_graph_edges
-- hot: a page of every edge, by the primary key.
SELECT e.scope, e.source, e.relationship, e.target, e.weight, e.attributes, e.version, e.created_by, e.updated_by,
    e.approved_by, e.approval_reason, e.created_at, e.updated_at
FROM holdfast_graph_edges AS e
WHERE e.tenant_id = :tenant AND e.scope = :scope
    AND (e.source, e.relationship, e.target) > (:after_source, :after_relationship, :after_target)
ORDER BY e.source, e.relationship, e.target LIMIT :limit;

-- name: graph_put_vectors
-- hot: of one node, within a transaction.
INSERT INTO holdfast_graph_vectors (tenant_id, scope, id, embedding) VALUES (:tenant, :scope, :id, :embedding)
ON CONFLICT (tenant_id, scope, id) DO UPDATE SET embedding = excluded.embedding;

-- name: graph_vectors
-- hot: the embeddings of a scope by the primary key; the program computes how alike they point.
SELECT v.id, v.embedding FROM holdfast_graph_vectors AS v
JOIN holdfast_graph_nodes AS n ON n.tenant_id = v.tenant_id AND n.scope = v.scope AND n.id = v.id
WHERE v.tenant_id = :tenant AND v.scope = :scope AND (:type IS NULL OR n.type = :type)
ORDER BY v.id;

-- name: graph_erase_history
-- hot: versions of nodes that were a user's, and that these were deleted, of some nodes at a time, whatever became of them.
DELETE FROM holdfast_graph_history
WHERE tenant_id = :tenant AND scope = :scope AND relationship = '' AND target = ''
    AND (deleted OR CASE WHEN json_valid(attributes) THEN attributes ->> '$.user_id' END = :user)
    AND id IN (
        SELECT DISTINCT o.id FROM holdfast_graph_history AS o
        WHERE o.tenant_id = :tenant AND o.scope = :scope AND o.relationship = '' AND o.target = ''
            AND CASE WHEN json_valid(o.attributes) THEN o.attributes ->> '$.user_id' END = :user
        ORDER BY o.id LIMIT :limit);
