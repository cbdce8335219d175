-- The documents of a collection are in a table like holdfast_documents. What stands behind /* table */ and /* near */
-- becomes its name and the operator of its metric; behind /* filter */ comes a condition whose values are parameters,
-- and behind /* embedding */ the column, where it was asked for.

-- name: collection
-- What a collection was made for; the oid tells whether its table is really there.
SELECT dimensions, metric, model, indexed, index_type, index_options, to_regclass(relation) IS NOT NULL AS present
FROM holdfast_collections WHERE collection = :collection;

-- name: lock_collections
-- Held to the end of the transaction, so that two programs never make the same table.
SELECT pg_advisory_xact_lock(hashtextextended('holdfast_collections', 0));

-- name: register
-- A table that was dropped by hand left its row behind, which must say what the new one is made for.
INSERT INTO holdfast_collections (collection, relation, dimensions, metric, model)
VALUES (:collection, :relation, :dimensions, :metric, :model)
ON CONFLICT (collection) DO UPDATE SET
    dimensions = excluded.dimensions, metric = excluded.metric, model = excluded.model,
    indexed = false, index_type = NULL, index_options = '{}'
RETURNING dimensions, metric, model, indexed, index_type, index_options;

-- name: adopt_model
-- The first program that names an embedding model decides; a race leaves the first one's.
UPDATE holdfast_collections SET model = :model WHERE collection = :collection AND model IS NULL;

-- name: upsert
-- hot: with a vector in binary; the row is locked by its key before anything of it is compared.
INSERT INTO /* table */ holdfast_documents AS d (tenant_id, id, content, metadata, embedding)
VALUES (:tenant, :id, :content, CAST(:metadata AS jsonb), :embedding)
ON CONFLICT (tenant_id, id) DO UPDATE SET
    content = excluded.content, metadata = excluded.metadata, embedding = excluded.embedding,
    version = d.version + 1, updated_at = now();

-- name: update
-- hot: what isn't given comes as NULL, and stays.
UPDATE /* table */ holdfast_documents SET
    content = coalesce(CAST(:content AS text), content),
    metadata = coalesce(CAST(:metadata AS jsonb), metadata),
    embedding = coalesce(CAST(:embedding AS vector), embedding),
    version = version + 1, updated_at = now()
WHERE tenant_id = :tenant AND id = :id;

-- name: get_many
-- hot: in the order of the ids asked for.
SELECT d.id, d.content, CAST(d.metadata AS text) AS metadata, /* embedding */ NULL AS embedding
FROM unnest(CAST(:ids AS text[])) WITH ORDINALITY AS wanted (id, place)
JOIN /* table */ holdfast_documents AS d ON d.tenant_id = :tenant AND d.id = wanted.id
ORDER BY wanted.place;

-- name: delete
-- hot: ids that aren't there are no error.
DELETE FROM /* table */ holdfast_documents WHERE tenant_id = :tenant AND id = ANY (CAST(:ids AS text[]));

-- name: count
-- Counts the index's entries where nothing is filtered.
SELECT count(*) FROM /* table */ holdfast_documents WHERE tenant_id = :tenant AND /* filter */ true;

-- name: search_exactly
-- Adding 0 keeps any vector index out. What is only shown is made outside, for k rows instead of all. `indexed` tells a
-- store that an index has been built since it last looked.
SELECT t.id, t.content, CAST(t.metadata AS text) AS metadata, t.embedding, t.distance,
       (SELECT indexed FROM holdfast_collections WHERE collection = :collection) AS indexed
FROM (
    SELECT id, content, metadata, /* embedding */ NULL AS embedding, (embedding /* near */ <=> :query) + 0 AS distance
    FROM /* table */ holdfast_documents
    WHERE tenant_id = :tenant AND /* filter */ true
    ORDER BY distance, id
    LIMIT :k
) AS t
ORDER BY t.distance, t.id;

-- name: search_by_index
-- One round trip: the settings hold for this one statement, because the inner query waits for the outer one's rows and
-- both end with it. A relaxed scan goes on until k rows passed the filter and may give them slightly out of order.
SELECT t.id, t.content, CAST(t.metadata AS text) AS metadata, t.embedding, t.distance
FROM (
    SELECT set_config(:effort_name, CAST(:effort AS text), true) AS effort,
           set_config(:scan_name, 'relaxed_order', true) AS scan
) AS setting,
LATERAL (
    SELECT id, content, metadata, /* embedding */ NULL AS embedding, embedding /* near */ <=> :query AS distance
    FROM /* table */ holdfast_documents
    WHERE setting.effort IS NOT NULL AND setting.scan IS NOT NULL AND tenant_id = :tenant AND /* filter */ true
    ORDER BY embedding /* near */ <=> :query
    LIMIT :k
) AS t
ORDER BY t.distance, t.id;

-- name: estimate_rows
-- The planner's own figure: exact enough for choosing how many lists an index gets.
SELECT greatest(reltuples, 0) FROM pg_class WHERE oid = to_regclass(:relation);

-- name: mark_indexed
-- In the transaction that makes the index, so that the two are never at odds.
UPDATE holdfast_collections SET indexed = true, index_type = :index_type, index_options = CAST(:options AS jsonb)
WHERE collection = :collection;
