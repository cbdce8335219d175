-- Each statement takes :tenant and :scope. The clock is the server's. A node's history is written by the statement that
-- changes the node; a new node goes on with the version after the last that its history has, so no version comes twice.

-- name: graph_put_nodes
-- hot: nodes travel as one JSON list, their attributes and words as texts within it, and are locked in the order of their
-- ids. New attributes win at the top level, unless :replace. :expected is 0 for a node that must not be there.
WITH given AS (
    SELECT r.id, r.type, CAST(r.attributes AS jsonb) AS attributes, CAST(r.words AS jsonb) AS words
    FROM json_to_recordset(CAST(:rows AS json)) AS r (id text, type text, attributes text, words text)
), written AS (
    INSERT INTO holdfast_graph_nodes AS n (
        tenant_id, scope, id, type, attributes, words, version, created_by, updated_by, approved_by, approval_reason,
        created_at, updated_at
    )
    SELECT :tenant, :scope, g.id, g.type, g.attributes, g.words,
        COALESCE((
            SELECT h.version FROM holdfast_graph_history AS h
            WHERE h.tenant_id = :tenant AND h.scope = :scope AND h.id = g.id AND h.relationship = '' AND h.target = ''
            ORDER BY h.version DESC LIMIT 1
        ), 0) + 1,
        :actor, :actor, :approved_by, :approval_reason, statement_timestamp(), statement_timestamp()
    FROM given AS g
    WHERE COALESCE(CAST(:expected AS bigint), 0) = 0 OR EXISTS (
        SELECT 1 FROM holdfast_graph_nodes AS e
        WHERE e.tenant_id = :tenant AND e.scope = :scope AND e.id = g.id
    )
    ORDER BY g.id COLLATE "C"
    ON CONFLICT (tenant_id, scope, id) DO UPDATE SET
        type = excluded.type,
        attributes = CASE WHEN CAST(:replace AS boolean) THEN excluded.attributes
            ELSE n.attributes || excluded.attributes END,
        words = CASE WHEN CAST(:replace AS boolean) THEN excluded.words ELSE n.words || excluded.words END,
        version = n.version + 1, updated_by = excluded.updated_by, approved_by = excluded.approved_by,
        approval_reason = excluded.approval_reason, updated_at = greatest(n.updated_at, clock_timestamp())
    WHERE CAST(:expected AS bigint) IS NULL OR n.version = CAST(:expected AS bigint)
    RETURNING n.id, n.scope, n.type, n.attributes, n.version, n.created_by, n.updated_by, n.approved_by,
        n.approval_reason, n.created_at, n.updated_at
), kept AS (
    INSERT INTO holdfast_graph_history (
        tenant_id, scope, id, relationship, target, version, type, attributes, deleted, created_by, updated_by,
        approved_by, approval_reason, created_at, updated_at
    )
    SELECT :tenant, w.scope, w.id, '', '', w.version, w.type, w.attributes, false, w.created_by, w.updated_by,
        w.approved_by, w.approval_reason, w.created_at, w.updated_at
    FROM written AS w
)
SELECT id, scope, type, CAST(attributes AS text) AS attributes, version, created_by, updated_by, approved_by,
    approval_reason, created_at, updated_at
FROM written;

-- name: graph_patch_node
-- hot: merges into the row as it is under the lock. Every key of the patch is taken out, then the new values go in.
WITH written AS (
    UPDATE holdfast_graph_nodes AS n SET
        attributes = (n.attributes - ARRAY(SELECT jsonb_object_keys(CAST(:touched AS jsonb))))
            || CAST(:changes AS jsonb),
        words = (n.words - ARRAY(SELECT jsonb_object_keys(CAST(:touched AS jsonb)))) || CAST(:words AS jsonb),
        version = n.version + 1, updated_by = :actor, approved_by = :approved_by, approval_reason = :approval_reason,
        updated_at = greatest(n.updated_at, clock_timestamp())
    WHERE n.tenant_id = :tenant AND n.scope = :scope AND n.id = :id
        AND (CAST(:expected AS bigint) IS NULL OR n.version = CAST(:expected AS bigint))
    RETURNING n.id, n.scope, n.type, n.attributes, n.version, n.created_by, n.updated_by, n.approved_by,
        n.approval_reason, n.created_at, n.updated_at
), kept AS (
    INSERT INTO holdfast_graph_history (
        tenant_id, scope, id, relationship, target, version, type, attributes, deleted, created_by, updated_by,
        approved_by, approval_reason, created_at, updated_at
    )
    SELECT :tenant, w.scope, w.id, '', '', w.version, w.type, w.attributes, false, w.created_by, w.updated_by,
        w.approved_by, w.approval_reason, w.created_at, w.updated_at
    FROM written AS w
)
SELECT id, scope, type, CAST(attributes AS text) AS attributes, version, created_by, updated_by, approved_by,
    approval_reason, created_at, updated_at
FROM written;

-- name: graph_get_node
-- hot: one probe of the primary key.
SELECT n.id, n.scope, n.type, CAST(n.attributes AS text) AS attributes, n.version, n.created_by, n.updated_by,
    n.approved_by, n.approval_reason, n.created_at, n.updated_at
FROM holdfast_graph_nodes AS n
WHERE n.tenant_id = :tenant AND n.scope = :scope AND n.id = :id;

-- name: graph_get_nodes
-- hot: one probe of the primary key for each.
SELECT n.id, n.scope, n.type, CAST(n.attributes AS text) AS attributes, n.version, n.created_by, n.updated_by,
    n.approved_by, n.approval_reason, n.created_at, n.updated_at
FROM jsonb_array_elements_text(CAST(:ids AS jsonb)) AS g (id)
JOIN holdfast_graph_nodes AS n ON n.tenant_id = :tenant AND n.scope = :scope AND n.id = g.id;

-- name: graph_delete_node
-- hot: the node is locked first, then its edges go, which its foreign keys would take away uncounted. :keep says whether
-- earlier versions stay, also those of a node that was deleted before; an approval of the deletion always does.
WITH chosen AS (
    SELECT n.* FROM holdfast_graph_nodes AS n
    WHERE n.tenant_id = :tenant AND n.scope = :scope AND n.id = :id
        AND (CAST(:expected AS bigint) IS NULL OR n.version = CAST(:expected AS bigint))
    FOR UPDATE
), gone_edges AS (
    DELETE FROM holdfast_graph_edges AS e
    WHERE e.tenant_id = :tenant AND e.scope = :scope AND (e.source = :id OR e.target = :id)
        AND EXISTS (SELECT 1 FROM chosen)
    RETURNING 1
), gone AS (
    DELETE FROM holdfast_graph_nodes AS n USING chosen AS c
    WHERE n.tenant_id = :tenant AND n.scope = :scope AND n.id = c.id
    RETURNING 1
), forgotten AS (
    DELETE FROM holdfast_graph_history AS h
    WHERE h.tenant_id = :tenant AND h.scope = :scope AND h.id = :id AND NOT CAST(:keep AS boolean) AND (
        EXISTS (SELECT 1 FROM chosen)
        OR CAST(:expected AS bigint) IS NULL AND NOT (h.deleted AND h.relationship = '' AND h.approved_by IS NOT NULL)
    )
), kept AS (
    INSERT INTO holdfast_graph_history (
        tenant_id, scope, id, relationship, target, version, type, attributes, deleted, created_by, updated_by,
        approved_by, approval_reason, created_at, updated_at
    )
    SELECT c.tenant_id, c.scope, c.id, '', '', c.version + 1, c.type, '{}', true, c.created_by, :actor,
        :approved_by, :approval_reason, c.created_at, greatest(c.updated_at, clock_timestamp())
    FROM chosen AS c
    WHERE CAST(:keep AS boolean) OR CAST(:approved_by AS text) IS NOT NULL
)
SELECT (SELECT count(*) FROM gone) AS nodes, (SELECT count(*) FROM gone_edges) AS edges;

-- name: graph_forget
-- hot: those that nobody has written for longest, by the index on time; one that somebody is writing is skipped. Nothing
-- of them stays but, where it needed one, the approval.
WITH chosen AS (
    SELECT n.* FROM holdfast_graph_nodes AS n
    WHERE n.tenant_id = :tenant AND n.scope = :scope AND n.updated_at < :before
        AND (CAST(:type AS text) IS NULL OR n.type = CAST(:type AS text))
    ORDER BY n.updated_at, n.id LIMIT :limit
    FOR UPDATE SKIP LOCKED
), gone_edges AS (
    DELETE FROM holdfast_graph_edges AS e
    WHERE e.tenant_id = :tenant AND e.scope = :scope AND (e.source, e.relationship, e.target) IN (
        SELECT o.source, o.relationship, o.target FROM chosen AS c JOIN holdfast_graph_edges AS o
            ON o.tenant_id = :tenant AND o.scope = :scope AND o.source = c.id
        UNION
        SELECT o.source, o.relationship, o.target FROM chosen AS c JOIN holdfast_graph_edges AS o
            ON o.tenant_id = :tenant AND o.scope = :scope AND o.target = c.id
    )
    RETURNING 1
), gone AS (
    DELETE FROM holdfast_graph_nodes AS n USING chosen AS c
    WHERE n.tenant_id = :tenant AND n.scope = :scope AND n.id = c.id
    RETURNING 1
), forgotten AS (
    DELETE FROM holdfast_graph_history AS h USING chosen AS c
    WHERE h.tenant_id = :tenant AND h.scope = :scope AND h.id = c.id
), kept AS (
    INSERT INTO holdfast_graph_history (
        tenant_id, scope, id, relationship, target, version, type, attributes, deleted, created_by, updated_by,
        approved_by, approval_reason, created_at, updated_at
    )
    SELECT c.tenant_id, c.scope, c.id, '', '', c.version + 1, c.type, '{}', true, c.created_by, :actor,
        :approved_by, :approval_reason, c.created_at, greatest(c.updated_at, clock_timestamp())
    FROM chosen AS c
    WHERE CAST(:approved_by AS text) IS NOT NULL
)
SELECT (SELECT count(*) FROM gone) AS nodes, (SELECT count(*) FROM gone_edges) AS edges;

-- name: graph_put_edges
-- hot: as graph_put_nodes, and all or none: where an end isn't there nothing is written, and graph_missing_nodes tells
-- which. History is kept of what was approved.
WITH given AS (
    SELECT r.source, r.relationship, r.target, r.weight, CAST(r.attributes AS jsonb) AS attributes
    FROM json_to_recordset(CAST(:rows AS json))
        AS r (source text, relationship text, target text, weight double precision, attributes text)
), written AS (
    INSERT INTO holdfast_graph_edges AS e (
        tenant_id, scope, source, relationship, target, weight, attributes, version, created_by, updated_by,
        approved_by, approval_reason, created_at, updated_at
    )
    SELECT :tenant, :scope, g.source, g.relationship, g.target, g.weight, g.attributes,
        COALESCE((
            SELECT h.version FROM holdfast_graph_history AS h
            WHERE h.tenant_id = :tenant AND h.scope = :scope AND h.id = g.source AND h.relationship = g.relationship
                AND h.target = g.target
            ORDER BY h.version DESC LIMIT 1
        ), 0) + 1,
        :actor, :actor, :approved_by, :approval_reason, statement_timestamp(), statement_timestamp()
    FROM given AS g
    WHERE NOT EXISTS (
        SELECT 1 FROM given AS a CROSS JOIN LATERAL (VALUES (a.source), (a.target)) AS x (id)
        WHERE NOT EXISTS (
            SELECT 1 FROM holdfast_graph_nodes AS n
            WHERE n.tenant_id = :tenant AND n.scope = :scope AND n.id = x.id
        )
    ) AND (COALESCE(CAST(:expected AS bigint), 0) = 0 OR EXISTS (
        SELECT 1 FROM holdfast_graph_edges AS o
        WHERE o.tenant_id = :tenant AND o.scope = :scope AND o.source = g.source
            AND o.relationship = g.relationship AND o.target = g.target
    ))
    ORDER BY g.source COLLATE "C", g.relationship COLLATE "C", g.target COLLATE "C"
    ON CONFLICT (tenant_id, scope, source, relationship, target) DO UPDATE SET
        weight = excluded.weight,
        attributes = CASE WHEN CAST(:replace AS boolean) THEN excluded.attributes
            ELSE e.attributes || excluded.attributes END,
        version = e.version + 1, updated_by = excluded.updated_by, approved_by = excluded.approved_by,
        approval_reason = excluded.approval_reason, updated_at = greatest(e.updated_at, clock_timestamp())
    WHERE CAST(:expected AS bigint) IS NULL OR e.version = CAST(:expected AS bigint)
    RETURNING e.scope, e.source, e.relationship, e.target, e.weight, e.attributes, e.version, e.created_by,
        e.updated_by, e.approved_by, e.approval_reason, e.created_at, e.updated_at
), kept AS (
    INSERT INTO holdfast_graph_history (
        tenant_id, scope, id, relationship, target, version, attributes, weight, deleted, created_by, updated_by,
        approved_by, approval_reason, created_at, updated_at
    )
    SELECT :tenant, w.scope, w.source, w.relationship, w.target, w.version, w.attributes, w.weight, false, w.created_by,
        w.updated_by, w.approved_by, w.approval_reason, w.created_at, w.updated_at
    FROM written AS w
    WHERE w.approved_by IS NOT NULL
)
SELECT scope, source, relationship, target, weight, CAST(attributes AS text) AS attributes, version, created_by,
    updated_by, approved_by, approval_reason, created_at, updated_at
FROM written;

-- name: graph_missing_nodes
-- hot: which of these isn't there, the first in order.
SELECT g.id FROM jsonb_array_elements_text(CAST(:ids AS jsonb)) AS g (id)
WHERE NOT EXISTS (
    SELECT 1 FROM holdfast_graph_nodes AS n WHERE n.tenant_id = :tenant AND n.scope = :scope AND n.id = g.id
)
ORDER BY g.id COLLATE "C" LIMIT 1;

-- name: graph_get_edge
-- hot: one probe of the primary key.
SELECT e.scope, e.source, e.relationship, e.target, e.weight, CAST(e.attributes AS text) AS attributes, e.version,
    e.created_by, e.updated_by, e.approved_by, e.approval_reason, e.created_at, e.updated_at
FROM holdfast_graph_edges AS e
WHERE e.tenant_id = :tenant AND e.scope = :scope AND e.source = :source AND e.relationship = :relationship
    AND e.target = :target;

-- name: graph_delete_edge
-- hot: one probe of the primary key; an approval is kept.
WITH gone AS (
    DELETE FROM holdfast_graph_edges AS e
    WHERE e.tenant_id = :tenant AND e.scope = :scope AND e.source = :source AND e.relationship = :relationship
        AND e.target = :target
    RETURNING e.*
), kept AS (
    INSERT INTO holdfast_graph_history (
        tenant_id, scope, id, relationship, target, version, attributes, weight, deleted, created_by, updated_by,
        approved_by, approval_reason, created_at, updated_at
    )
    SELECT g.tenant_id, g.scope, g.source, g.relationship, g.target, g.version + 1, '{}', g.weight, true, g.created_by,
        :actor, :approved_by, :approval_reason, g.created_at, greatest(g.updated_at, clock_timestamp())
    FROM gone AS g
    WHERE CAST(:approved_by AS text) IS NOT NULL
)
SELECT count(*) FROM gone;

-- name: list_graph_edges
-- hot: those that go out walk the primary key, then those that come in the index of targets. One from the node to itself
-- goes out, and comes in where only those are asked for.
SELECT f.scope, f.source, f.relationship, f.target, f.weight, CAST(f.attributes AS text) AS attributes, f.version,
    f.created_by, f.updated_by, f.approved_by, f.approval_reason, f.created_at, f.updated_at
FROM (
    (
        SELECT 1 AS side, e.target AS other, e.* FROM holdfast_graph_edges AS e
        WHERE e.tenant_id = :tenant AND e.scope = :scope AND e.source = :id AND CAST(:outward AS boolean)
            AND (CAST(:relationships AS text[]) IS NULL OR e.relationship = ANY (CAST(:relationships AS text[])))
            AND (e.relationship, e.target) > (CAST(:out_relationship AS text), CAST(:out_other AS text))
        ORDER BY e.relationship, e.target LIMIT :limit
    )
    UNION ALL
    (
        SELECT 2, e.source, e.* FROM holdfast_graph_edges AS e
        WHERE e.tenant_id = :tenant AND e.scope = :scope AND e.target = :id AND CAST(:inward AS boolean)
            AND (CAST(:loops AS boolean) OR e.source <> :id)
            AND (CAST(:relationships AS text[]) IS NULL OR e.relationship = ANY (CAST(:relationships AS text[])))
            AND (e.relationship, e.source) > (CAST(:in_relationship AS text), CAST(:in_other AS text))
        ORDER BY e.relationship, e.source LIMIT :limit
    )
) AS f
ORDER BY f.side, f.relationship, f.other LIMIT :limit;

-- name: find_graph_nodes
-- Newest first, by the index on time, or on type and time; it is planned for the filters that are given.
SELECT n.id, n.scope, n.type, CAST(n.attributes AS text) AS attributes, n.version, n.created_by, n.updated_by,
    n.approved_by, n.approval_reason, n.created_at, n.updated_at
FROM holdfast_graph_nodes AS n
WHERE n.tenant_id = :tenant AND n.scope = :scope AND (CAST(:type AS text) IS NULL OR n.type = CAST(:type AS text))
    AND (CAST(:since AS timestamptz) IS NULL OR n.updated_at >= CAST(:since AS timestamptz))
    AND (CAST(:until AS timestamptz) IS NULL OR n.updated_at < CAST(:until AS timestamptz))
    AND (CAST(:after_time AS timestamptz) IS NULL
        OR (n.updated_at, n.id) < (CAST(:after_time AS timestamptz), CAST(:after_id AS text)))
    AND (CAST(:where AS jsonb) IS NULL OR n.attributes @> CAST(:where AS jsonb))
ORDER BY n.updated_at DESC, n.id DESC LIMIT :limit;

-- name: list_user_nodes
-- hot: by the index of users; the hash finds them, the name itself is compared.
SELECT n.id, n.scope, n.type, CAST(n.attributes AS text) AS attributes, n.version, n.created_by, n.updated_by,
    n.approved_by, n.approval_reason, n.created_at, n.updated_at
FROM holdfast_graph_nodes AS n
WHERE n.tenant_id = :tenant AND n.scope = :scope
    AND hashtextextended((n.attributes ->> 'user_id') COLLATE "C", 0) = hashtextextended(CAST(:user AS text) COLLATE "C", 0)
    AND n.attributes -> 'user_id' = to_jsonb(CAST(:user AS text))
    AND (CAST(:after_time AS timestamptz) IS NULL
        OR (n.updated_at, n.id) < (CAST(:after_time AS timestamptz), CAST(:after_id AS text)))
ORDER BY n.updated_at DESC, n.id DESC LIMIT :limit;

-- name: graph_count
-- Counts the rows of an index.
SELECT count(*) FROM holdfast_graph_nodes AS n
WHERE n.tenant_id = :tenant AND n.scope = :scope AND (CAST(:type AS text) IS NULL OR n.type = CAST(:type AS text));

-- name: graph_count_edges
-- Counts the rows of an index.
SELECT count(*) FROM holdfast_graph_edges AS e
WHERE e.tenant_id = :tenant AND e.scope = :scope
    AND (CAST(:relationship AS text) IS NULL OR e.relationship = CAST(:relationship AS text));

-- name: search_graph_nodes
-- Those with any of the words, by the GIN index; those with most of them first. It is planned for the words that are given.
SELECT n.id, n.scope, n.type, CAST(n.attributes AS text) AS attributes, n.version, n.created_by, n.updated_by,
    n.approved_by, n.approval_reason, n.created_at, n.updated_at, f.matched
FROM (
    SELECT s.id, s.updated_at, (
        SELECT count(*) FROM unnest(tsvector_to_array(s.search)) AS w WHERE w = ANY (CAST(:words AS text[]))
    ) AS matched
    FROM holdfast_graph_nodes AS s
    WHERE s.tenant_id = :tenant AND s.scope = :scope AND s.search @@ CAST(:query AS tsquery)
        AND (CAST(:type AS text) IS NULL OR s.type = CAST(:type AS text))
    ORDER BY matched DESC, s.updated_at DESC, s.id DESC LIMIT :limit
) AS f
JOIN holdfast_graph_nodes AS n ON n.tenant_id = :tenant AND n.scope = :scope AND n.id = f.id
ORDER BY f.matched DESC, f.updated_at DESC, f.id DESC LIMIT :limit;

-- name: list_graph_neighbours_out
-- hot: UNION drops what a level meets twice, the depth ends every cycle, and the least depth of each node is kept. Nodes are
-- read after the limit. There is one statement a direction: one for all would look dearer to the planner than a plan for
-- its very parameters, and so be planned anew for each call.
WITH RECURSIVE walk (id, depth) AS (
    SELECT CAST(:id AS text) COLLATE "C", 0
    UNION
    SELECT e.target, w.depth + 1
    FROM walk AS w
    JOIN holdfast_graph_edges AS e ON e.tenant_id = :tenant AND e.scope = :scope AND e.source = w.id
    WHERE w.depth < CAST(:depth AS integer)
        AND (CAST(:relationships AS text[]) IS NULL OR e.relationship = ANY (CAST(:relationships AS text[])))
), nearest AS (
    SELECT walk.id, min(walk.depth) AS depth FROM walk GROUP BY walk.id
    HAVING (min(walk.depth), walk.id) > (CAST(:after_depth AS integer), CAST(:after_id AS text))
    ORDER BY min(walk.depth), walk.id LIMIT :limit
)
SELECT nearest.depth, n.id, n.scope, n.type, CAST(n.attributes AS text) AS attributes, n.version, n.created_by,
    n.updated_by, n.approved_by, n.approval_reason, n.created_at, n.updated_at
FROM nearest
JOIN holdfast_graph_nodes AS n ON n.tenant_id = :tenant AND n.scope = :scope AND n.id = nearest.id
ORDER BY nearest.depth, nearest.id LIMIT :limit;

-- name: list_graph_neighbours_in
-- hot: the same against the edges.
WITH RECURSIVE walk (id, depth) AS (
    SELECT CAST(:id AS text) COLLATE "C", 0
    UNION
    SELECT e.source, w.depth + 1
    FROM walk AS w
    JOIN holdfast_graph_edges AS e ON e.tenant_id = :tenant AND e.scope = :scope AND e.target = w.id
    WHERE w.depth < CAST(:depth AS integer)
        AND (CAST(:relationships AS text[]) IS NULL OR e.relationship = ANY (CAST(:relationships AS text[])))
), nearest AS (
    SELECT walk.id, min(walk.depth) AS depth FROM walk GROUP BY walk.id
    HAVING (min(walk.depth), walk.id) > (CAST(:after_depth AS integer), CAST(:after_id AS text))
    ORDER BY min(walk.depth), walk.id LIMIT :limit
)
SELECT nearest.depth, n.id, n.scope, n.type, CAST(n.attributes AS text) AS attributes, n.version, n.created_by,
    n.updated_by, n.approved_by, n.approval_reason, n.created_at, n.updated_at
FROM nearest
JOIN holdfast_graph_nodes AS n ON n.tenant_id = :tenant AND n.scope = :scope AND n.id = nearest.id
ORDER BY nearest.depth, nearest.id LIMIT :limit;

-- name: list_graph_neighbours_both
-- hot: the same both ways.
WITH RECURSIVE walk (id, depth) AS (
    SELECT CAST(:id AS text) COLLATE "C", 0
    UNION
    SELECT x.id, w.depth + 1
    FROM walk AS w
    CROSS JOIN LATERAL (
        SELECT e.target AS id FROM holdfast_graph_edges AS e
        WHERE e.tenant_id = :tenant AND e.scope = :scope AND e.source = w.id
            AND (CAST(:relationships AS text[]) IS NULL OR e.relationship = ANY (CAST(:relationships AS text[])))
        UNION ALL
        SELECT e.source FROM holdfast_graph_edges AS e
        WHERE e.tenant_id = :tenant AND e.scope = :scope AND e.target = w.id
            AND (CAST(:relationships AS text[]) IS NULL OR e.relationship = ANY (CAST(:relationships AS text[])))
    ) AS x
    WHERE w.depth < CAST(:depth AS integer)
), nearest AS (
    SELECT walk.id, min(walk.depth) AS depth FROM walk GROUP BY walk.id
    HAVING (min(walk.depth), walk.id) > (CAST(:after_depth AS integer), CAST(:after_id AS text))
    ORDER BY min(walk.depth), walk.id LIMIT :limit
)
SELECT nearest.depth, n.id, n.scope, n.type, CAST(n.attributes AS text) AS attributes, n.version, n.created_by,
    n.updated_by, n.approved_by, n.approval_reason, n.created_at, n.updated_at
FROM nearest
JOIN holdfast_graph_nodes AS n ON n.tenant_id = :tenant AND n.scope = :scope AND n.id = nearest.id
ORDER BY nearest.depth, nearest.id LIMIT :limit;

-- name: list_graph_steps
-- hot: the edges of one step from each of several nodes, for a path.
SELECT x.here, x.there, x.relationship, x.weight
FROM jsonb_array_elements_text(CAST(:ids AS jsonb)) AS f (id)
CROSS JOIN LATERAL (
    SELECT e.source AS here, e.target AS there, e.relationship, e.weight FROM holdfast_graph_edges AS e
    WHERE e.tenant_id = :tenant AND e.scope = :scope AND e.source = f.id AND CAST(:outward AS boolean)
        AND (CAST(:relationships AS text[]) IS NULL OR e.relationship = ANY (CAST(:relationships AS text[])))
    UNION ALL
    SELECT e.target, e.source, e.relationship, e.weight FROM holdfast_graph_edges AS e
    WHERE e.tenant_id = :tenant AND e.scope = :scope AND e.target = f.id AND CAST(:inward AS boolean)
        AND (CAST(:relationships AS text[]) IS NULL OR e.relationship = ANY (CAST(:relationships AS text[])))
) AS x
ORDER BY x.here, x.there, x.weight, x.relationship LIMIT :limit;

-- name: list_graph_history
-- hot: walks the primary key from the newest version.
SELECT h.id, h.scope, h.relationship, h.target, h.version, h.type, CAST(h.attributes AS text) AS attributes, h.weight,
    h.deleted, h.created_by, h.updated_by, h.approved_by, h.approval_reason, h.created_at, h.updated_at
FROM holdfast_graph_history AS h
WHERE h.tenant_id = :tenant AND h.scope = :scope AND h.id = :id AND h.relationship = '' AND h.target = ''
    AND h.version < :before
ORDER BY h.version DESC LIMIT :limit;

-- name: graph_at_version
-- hot: one probe of the primary key.
SELECT h.id, h.scope, h.type, CAST(h.attributes AS text) AS attributes, h.deleted, h.version, h.created_by,
    h.updated_by, h.approved_by, h.approval_reason, h.created_at, h.updated_at
FROM holdfast_graph_history AS h
WHERE h.tenant_id = :tenant AND h.scope = :scope AND h.id = :id AND h.relationship = '' AND h.target = ''
    AND h.version = :version;

-- name: graph_at_time
-- hot: the last version at a time, which is the first of a walk back from there.
SELECT h.id, h.scope, h.type, CAST(h.attributes AS text) AS attributes, h.deleted, h.version, h.created_by,
    h.updated_by, h.approved_by, h.approval_reason, h.created_at, h.updated_at
FROM holdfast_graph_history AS h
WHERE h.tenant_id = :tenant AND h.scope = :scope AND h.id = :id AND h.relationship = '' AND h.updated_at <= :moment
ORDER BY h.updated_at DESC, h.version DESC LIMIT 1;

-- name: list_graph_approvals
-- hot: walks the index of what was approved, from the newest.
SELECT h.id, h.scope, h.relationship, h.target, h.version, h.type, CAST(h.attributes AS text) AS attributes, h.weight,
    h.deleted, h.created_by, h.updated_by, h.approved_by, h.approval_reason, h.created_at, h.updated_at
FROM holdfast_graph_history AS h
WHERE h.tenant_id = :tenant AND h.scope = :scope AND h.approved_by IS NOT NULL
    AND (h.updated_at, h.id, h.relationship, h.target, h.version) < (
        COALESCE(CAST(:after_time AS timestamptz), 'infinity'), CAST(:after_id AS text),
        CAST(:after_relationship AS text), CAST(:after_target AS text), CAST(:after_version AS bigint)
    )
ORDER BY h.updated_at DESC, h.id DESC, h.relationship DESC, h.target DESC, h.version DESC LIMIT :limit;

-- name: graph_prune_history
-- hot: earlier versions of one node, but not the newest :keep, nor what was approved.
DELETE FROM holdfast_graph_history AS h
WHERE h.tenant_id = :tenant AND h.scope = :scope AND h.id = :id AND h.relationship = '' AND h.target = ''
    AND h.approved_by IS NULL AND h.version <= (
        SELECT o.version FROM holdfast_graph_history AS o
        WHERE o.tenant_id = :tenant AND o.scope = :scope AND o.id = :id AND o.relationship = '' AND o.target = ''
        ORDER BY o.version DESC OFFSET :keep LIMIT 1
    );

-- name: list_graph_range
-- hot: nodes whose ids lie in a range of the primary key.
SELECT n.id, n.scope, n.type, CAST(n.attributes AS text) AS attributes, n.version, n.created_by, n.updated_by,
    n.approved_by, n.approval_reason, n.created_at, n.updated_at
FROM holdfast_graph_nodes AS n
WHERE n.tenant_id = :tenant AND n.scope = :scope AND n.id >= :from AND n.id > :after AND n.id < :below
ORDER BY n.id LIMIT :limit;

-- name: list_all_graph_nodes
-- hot: a page of every node, by the primary key.
SELECT n.id, n.scope, n.type, CAST(n.attributes AS text) AS attributes, n.version, n.created_by, n.updated_by,
    n.approved_by, n.approval_reason, n.created_at, n.updated_at
FROM holdfast_graph_nodes AS n
WHERE n.tenant_id = :tenant AND n.scope = :scope AND n.id > :after
ORDER BY n.id LIMIT :limit;

-- name: list_all_graph_edges
-- hot: a page of every edge, by the primary key.
SELECT e.scope, e.source, e.relationship, e.target, e.weight, CAST(e.attributes AS text) AS attributes, e.version,
    e.created_by, e.updated_by, e.approved_by, e.approval_reason, e.created_at, e.updated_at
FROM holdfast_graph_edges AS e
WHERE e.tenant_id = :tenant AND e.scope = :scope AND (e.source, e.relationship, e.target)
    > (CAST(:after_source AS text), CAST(:after_relationship AS text), CAST(:after_target AS text))
ORDER BY e.source, e.relationship, e.target LIMIT :limit;

-- name: graph_put_vectors
-- hot: all or none: where a node isn't there nothing is written, and graph_missing_nodes tells which.
WITH given AS (
    SELECT g.id, CAST(g.embedding AS real[]) AS embedding
    FROM unnest(CAST(:ids AS text[]), CAST(:vectors AS text[])) AS g (id, embedding)
), written AS (
    INSERT INTO holdfast_graph_vectors (tenant_id, scope, id, embedding)
    SELECT :tenant, :scope, g.id, g.embedding FROM given AS g
    WHERE NOT EXISTS (
        SELECT 1 FROM given AS a WHERE NOT EXISTS (
            SELECT 1 FROM holdfast_graph_nodes AS n
            WHERE n.tenant_id = :tenant AND n.scope = :scope AND n.id = a.id
        )
    )
    ORDER BY g.id COLLATE "C"
    ON CONFLICT (tenant_id, scope, id) DO UPDATE SET embedding = excluded.embedding
    RETURNING 1
)
SELECT count(*) FROM written;

-- name: graph_recall
-- The nodes whose embeddings point most alike, exactly; only on a server with pgvector. It reads every embedding of the
-- scope: a vector of zeros has no direction, and its NaN would sort first.
SELECT n.id, n.scope, n.type, CAST(n.attributes AS text) AS attributes, n.version, n.created_by, n.updated_by,
    n.approved_by, n.approval_reason, n.created_at, n.updated_at, f.score
FROM (
    SELECT v.id, NULLIF(1 - (CAST(v.embedding AS vector) <=> CAST(:vector AS vector)), 'NaN') AS score
    FROM holdfast_graph_vectors AS v
    JOIN holdfast_graph_nodes AS t ON t.tenant_id = :tenant AND t.scope = :scope AND t.id = v.id
    WHERE v.tenant_id = :tenant AND v.scope = :scope AND cardinality(v.embedding) = CAST(:dimensions AS integer)
        AND (CAST(:type AS text) IS NULL OR t.type = CAST(:type AS text))
    ORDER BY score DESC NULLS LAST, v.id LIMIT :limit
) AS f
JOIN holdfast_graph_nodes AS n ON n.tenant_id = :tenant AND n.scope = :scope AND n.id = f.id
WHERE f.score IS NOT NULL
ORDER BY f.score DESC, f.id LIMIT :limit;

-- name: graph_vector_lengths
-- What a recall that found nothing could have been compared with: the lengths of the embeddings that it looked at.
SELECT cardinality(v.embedding) AS length
FROM holdfast_graph_vectors AS v
JOIN holdfast_graph_nodes AS t ON t.tenant_id = :tenant AND t.scope = :scope AND t.id = v.id
WHERE v.tenant_id = :tenant AND v.scope = :scope AND (CAST(:type AS text) IS NULL OR t.type = CAST(:type AS text))
GROUP BY length ORDER BY length LIMIT 1000;

-- name: graph_erase_history
-- hot: versions of nodes that were a user's, and that these were deleted, of some nodes at a time, whatever became of them.
DELETE FROM holdfast_graph_history AS h
USING (SELECT DISTINCT o.id FROM holdfast_graph_history AS o
       WHERE o.tenant_id = :tenant AND o.scope = :scope AND o.relationship = '' AND o.target = ''
           AND hashtextextended((o.attributes ->> 'user_id') COLLATE "C", 0) = hashtextextended(CAST(:user AS text) COLLATE "C", 0)
           AND o.attributes -> 'user_id' = to_jsonb(CAST(:user AS text))
       ORDER BY o.id LIMIT :limit) AS g
WHERE h.tenant_id = :tenant AND h.scope = :scope AND h.relationship = '' AND h.target = '' AND h.id = g.id
    AND (h.deleted OR h.attributes -> 'user_id' = to_jsonb(CAST(:user AS text)));
