-- Behind /* filter */ comes a condition whose values are parameters, behind /* embedding */ the vector, where it was
-- asked for. CROSS JOIN is SQLite's way to say which table comes first: the few ids, then a look-up for each.

-- name: collection
-- What a collection was made for.
SELECT dimensions, metric, model FROM holdfast_collections WHERE collection = :collection;

-- name: register
-- Two programs may come first at once: the earlier one's row stays, and both then read it.
INSERT INTO holdfast_collections (collection, dimensions, metric, model, created_at)
VALUES (:collection, :dimensions, :metric, :model, :now)
ON CONFLICT (collection) DO NOTHING;

-- name: adopt_model
-- The first program that names an embedding model decides; a race leaves the first one's.
UPDATE holdfast_collections SET model = :model WHERE collection = :collection AND model IS NULL;

-- name: last_position
-- The highest ever used, deleted ones included; within a write transaction nobody else can move it.
SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'holdfast_vectors';

-- name: insert_vector
-- At a position that the caller took from last_position in the same transaction.
INSERT INTO holdfast_vectors (position, embedding) VALUES (:position, :embedding);

-- name: upsert
-- hot: a document that is written again gets a new vector at a new position: readers hold old ones in memory.
INSERT INTO holdfast_documents (tenant_id, collection, id, position, content, metadata, created_at, updated_at)
VALUES (:tenant, :collection, :id, :position, :content, :metadata, :now, :now)
ON CONFLICT (tenant_id, collection, id) DO UPDATE SET
    position = excluded.position, content = excluded.content, metadata = excluded.metadata,
    version = version + 1, updated_at = excluded.updated_at;

-- name: update
-- hot: what isn't given comes as NULL, and stays.
UPDATE holdfast_documents SET
    position = coalesce(:position, position), content = coalesce(:content, content),
    metadata = coalesce(:metadata, metadata), version = version + 1, updated_at = :now
WHERE tenant_id = :tenant AND collection = :collection AND id = :id;

-- name: delete_vectors
-- hot: before the documents that say where they are.
DELETE FROM holdfast_vectors WHERE position IN (
    SELECT d.position FROM json_each(:ids)
    CROSS JOIN holdfast_documents AS d ON d.tenant_id = :tenant AND d.collection = :collection AND d.id = json_each.value
);

-- name: delete
-- hot: ids that aren't there are no error.
DELETE FROM holdfast_documents
WHERE tenant_id = :tenant AND collection = :collection AND id IN (SELECT value FROM json_each(:ids));

-- name: advance
-- hot: in the transaction of each write: whoever reads the same generation again has seen every vector.
INSERT INTO holdfast_collection_states (tenant_id, collection, generation, removals)
VALUES (:tenant, :collection, 1, :removed)
ON CONFLICT (tenant_id, collection) DO UPDATE SET
    generation = generation + 1, removals = removals + excluded.removals;

-- name: get_many
-- hot: in the order of the ids asked for.
SELECT d.id, d.content, d.metadata, /* embedding */ NULL AS embedding
FROM json_each(:ids)
CROSS JOIN holdfast_documents AS d ON d.tenant_id = :tenant AND d.collection = :collection AND d.id = json_each.value
ORDER BY json_each.key;

-- name: count
-- Counts the index's entries where nothing is filtered.
SELECT count(*) FROM holdfast_documents AS d WHERE d.tenant_id = :tenant AND d.collection = :collection AND /* filter */ 1;

-- name: state
-- hot: read by every search; no row is a collection that nothing was written to.
SELECT generation, removals FROM holdfast_collection_states WHERE tenant_id = :tenant AND collection = :collection;

-- name: vectors_after
-- hot: CROSS JOIN holds the order: documents by their position, then each one's vector, so the blobs are read in a row.
SELECT v.position, v.embedding
FROM holdfast_documents AS d CROSS JOIN holdfast_vectors AS v ON v.position = d.position
WHERE d.tenant_id = :tenant AND d.collection = :collection AND d.position > :after
ORDER BY d.position
LIMIT :limit;

-- name: positions
-- From the index alone: which vectors are still there.
SELECT d.position FROM holdfast_documents AS d
WHERE d.tenant_id = :tenant AND d.collection = :collection
ORDER BY d.position;

-- name: positions_where
-- The filter reads the documents; their vectors are in memory.
SELECT d.position FROM holdfast_documents AS d
WHERE d.tenant_id = :tenant AND d.collection = :collection AND /* filter */ 1
ORDER BY d.position;

-- name: found
-- hot: the documents at [position, rank] pairs; what ties in rank comes by id.
SELECT d.position, d.id, d.content, d.metadata, /* embedding */ NULL AS embedding
FROM json_each(:found)
CROSS JOIN holdfast_documents AS d ON d.tenant_id = :tenant AND d.collection = :collection
    AND d.position = json_extract(json_each.value, '$[0]')
ORDER BY json_extract(json_each.value, '$[1]'), d.id
LIMIT :k;
