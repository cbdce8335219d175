-- Behind /* filter */ comes a condition whose values are parameters, behind /* embedding */ the vector, where it was
-- asked for; /* words */, /* place */, /* sizes */ and /* terms */ are of a language. CROSS JOIN is SQLite's way to say which table
-- comes first: the few ids, then a look-up for each. Triggers keep states, vectors and words in step with the documents.

-- name: collection
-- What a collection was made for.
SELECT dimensions, metric, model, language FROM holdfast_collections WHERE collection = :collection;

-- name: register
-- Two programs may come first at once: the earlier one's row stays, and both then read it.
INSERT INTO holdfast_collections (collection, dimensions, metric, model, language, created_at)
VALUES (:collection, :dimensions, :metric, :model, :language, :now)
ON CONFLICT (collection) DO NOTHING;

-- name: adopt_model
-- The first program that names an embedding model decides; a race leaves the first one's.
UPDATE holdfast_collections SET model = :model WHERE collection = :collection AND model IS NULL;

-- name: adopt_language
-- In one transaction with index_words: the triggers see to what is written from then on.
UPDATE holdfast_collections SET language = :language WHERE collection = :collection AND language IS NULL;

-- name: index_words
-- The words of what was there before words were searched, of every tenant.
INSERT INTO /* words */ holdfast_words_english (rowid, content)
SELECT position, content FROM holdfast_documents WHERE collection = :collection;

-- name: last_position
-- The highest ever used, deleted ones included; within a write transaction nobody else can move it.
SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'holdfast_vectors';

-- name: insert_vector
-- At a position that the caller took from last_position in the same transaction.
INSERT INTO holdfast_vectors (position, embedding) VALUES (:position, :embedding);

-- name: move_vector
-- hot: readers hold a vector's end beside it, so a document whose end changes gets its vector at a new position.
INSERT INTO holdfast_vectors (position, embedding)
SELECT :position, v.embedding FROM holdfast_documents AS d CROSS JOIN holdfast_vectors AS v ON v.position = d.position
WHERE d.tenant_id = :tenant AND d.collection = :collection AND d.namespace = :namespace AND d.id = :id;

-- name: drop_vector
-- hot: of a document that turned out not to be there.
DELETE FROM holdfast_vectors WHERE position = :position;

-- name: upsert
-- hot: a document that is written again gets a new vector at a new position: readers hold old ones in memory. What had
-- expired was gone, so what takes its place is new.
INSERT INTO holdfast_documents AS d (
    tenant_id, collection, namespace, id, position, content, metadata, source, expires_at, created_at, updated_at
)
VALUES (
    :tenant, :collection, :namespace, :id, :position, :content, :metadata, :source, :expires_at, :now, :now
)
ON CONFLICT (tenant_id, collection, namespace, id) DO UPDATE SET
    position = excluded.position, content = excluded.content, metadata = excluded.metadata, source = excluded.source,
    expires_at = excluded.expires_at, updated_at = excluded.updated_at,
    version = iif(d.expires_at <= :now, 1, version + 1), created_at = iif(d.expires_at <= :now, :now, created_at);

-- name: update
-- hot: what isn't given comes as NULL, and stays.
UPDATE holdfast_documents SET
    position = coalesce(:position, position), content = coalesce(:content, content),
    metadata = coalesce(:metadata, metadata), source = coalesce(:source, source),
    expires_at = iif(:never, NULL, coalesce(:expires_at, expires_at)), version = version + 1, updated_at = :now
WHERE tenant_id = :tenant AND collection = :collection AND namespace = :namespace AND id = :id
    AND (expires_at IS NULL OR expires_at > :now);

-- name: patch
-- hot: every key of the patch is taken out, then the new values are appended as the text that they are: json_patch
-- alone would merge below the top level and drop nested nulls, json_each would round numbers.
UPDATE holdfast_documents SET
    metadata = (
        SELECT CASE
            WHEN rest.text = '{}' THEN :changes
            WHEN :changes = '{}' THEN rest.text
            ELSE substr(rest.text, 1, length(rest.text) - 1) || ',' || substr(:changes, 2)
        END
        FROM (SELECT json_patch(metadata, :touched) AS text) AS rest
    ),
    version = version + 1, updated_at = :now
WHERE tenant_id = :tenant AND collection = :collection AND namespace = :namespace AND id = :id
    AND (expires_at IS NULL OR expires_at > :now);

-- name: delete
-- hot: ids that aren't there are no error.
DELETE FROM holdfast_documents
WHERE tenant_id = :tenant AND collection = :collection AND namespace = :namespace
    AND id IN (SELECT value FROM json_each(:ids)) AND (expires_at IS NULL OR expires_at > :now);

-- name: delete_where
-- The filter reads the documents of the namespace.
DELETE FROM holdfast_documents AS d
WHERE d.tenant_id = :tenant AND d.collection = :collection AND d.namespace = :namespace
    AND (d.expires_at IS NULL OR d.expires_at > :now) AND /* filter */ 1;

-- name: delete_other_of_source
-- hot: what a source had, and has no more.
DELETE FROM holdfast_documents
WHERE tenant_id = :tenant AND collection = :collection AND namespace = :namespace AND source = :source
    AND id NOT IN (SELECT value FROM json_each(:ids));

-- name: delete_expired
-- hot: of every namespace, the longest gone first.
DELETE FROM holdfast_documents WHERE rowid IN (
    SELECT rowid FROM holdfast_documents
    WHERE tenant_id = :tenant AND collection = :collection AND expires_at <= :now
    ORDER BY expires_at
    LIMIT :limit
);

-- name: get_many
-- hot: in the order of the ids asked for.
SELECT d.id, d.content, d.metadata, d.source, d.expires_at, d.created_at, d.updated_at,
    /* embedding */ NULL AS embedding
FROM json_each(:ids)
CROSS JOIN holdfast_documents AS d ON d.tenant_id = :tenant AND d.collection = :collection
    AND d.namespace = :namespace AND d.id = json_each.value
WHERE d.expires_at IS NULL OR d.expires_at > :now
ORDER BY json_each.key;

-- name: page
-- By id, from behind the last one that was seen.
SELECT d.id, d.content, d.metadata, d.source, d.expires_at, d.created_at, d.updated_at,
    /* embedding */ NULL AS embedding
FROM holdfast_documents AS d
WHERE d.tenant_id = :tenant AND d.collection = :collection AND d.namespace = :namespace AND d.id > :after
    AND (d.expires_at IS NULL OR d.expires_at > :now) AND /* filter */ 1
ORDER BY d.id
LIMIT :limit;

-- name: count
-- Counts the index's entries where nothing is filtered.
SELECT count(*) FROM holdfast_documents AS d
WHERE d.tenant_id = :tenant AND d.collection = :collection AND d.namespace = :namespace
    AND (d.expires_at IS NULL OR d.expires_at > :now) AND /* filter */ 1;

-- name: state
-- hot: no row is a namespace that nothing was written to.
SELECT generation, removals FROM holdfast_collection_states
WHERE tenant_id = :tenant AND collection = :collection AND namespace = :namespace;

-- name: vectors_after
-- hot: CROSS JOIN holds the order: documents by their position, then each one's vector, so the blobs are read in a row.
SELECT v.position, v.embedding, d.expires_at
FROM holdfast_documents AS d CROSS JOIN holdfast_vectors AS v ON v.position = d.position
WHERE d.tenant_id = :tenant AND d.collection = :collection AND d.namespace = :namespace AND d.position > :after
ORDER BY d.position
LIMIT :limit;

-- name: knows
-- hot: whether a vector is still there.
SELECT count(*) FROM holdfast_documents AS d
WHERE d.tenant_id = :tenant AND d.collection = :collection AND d.namespace = :namespace AND d.position = :position;

-- name: positions
-- hot: as one text, which is quicker than a row each: which vectors are still there, up to the last that is known.
SELECT json_group_array(d.position) AS positions FROM holdfast_documents AS d
WHERE d.tenant_id = :tenant AND d.collection = :collection AND d.namespace = :namespace AND d.position <= :last;

-- name: fingerprint
-- hot: of the vectors up to a position. Positions are apart by chance, so another history gives another one.
SELECT count(*) AS rows, sum(d.position % 2147483647) AS places FROM holdfast_documents AS d
WHERE d.tenant_id = :tenant AND d.collection = :collection AND d.namespace = :namespace AND d.position <= :last;

-- name: passing
-- The filter reads the documents; their vectors are in memory, and tell which have expired.
SELECT
    coalesce((
        SELECT s.generation FROM holdfast_collection_states AS s
        WHERE s.tenant_id = :tenant AND s.collection = :collection AND s.namespace = :namespace
    ), 0) AS generation,
    json_group_array(d.position) AS positions
FROM holdfast_documents AS d
WHERE d.tenant_id = :tenant AND d.collection = :collection AND d.namespace = :namespace AND /* filter */ 1;

-- name: found
-- hot: the documents at [position, rank] pairs, equal ranks by id, beside the generation that the file has now. Of what
-- comes before a page only those are read that tie with its first.
SELECT s.generation, d.position, d.id, d.content, d.metadata, /* embedding */ NULL AS embedding
FROM holdfast_collection_states AS s
LEFT JOIN json_each(:found)
LEFT JOIN holdfast_documents AS d ON d.tenant_id = s.tenant_id AND d.collection = s.collection
    AND d.namespace = s.namespace AND d.position = json_extract(json_each.value, '$[0]')
WHERE s.tenant_id = :tenant AND s.collection = :collection AND s.namespace = :namespace
ORDER BY json_extract(json_each.value, '$[1]'), d.id
LIMIT :k OFFSET :offset;

-- name: matching
-- Where the documents are that have any of the words, best first by bm25, whose score is the lower the better. Words that
-- half of all texts have say nothing and are left out, unless all are such; their count is that of the table's rows.
-- Without an order by id the documents themselves, and a filter apart, stay unread: the index has what is asked for.
SELECT d.position, bm25(/* words */ holdfast_words_english) AS score
FROM /* words */ holdfast_words_english
CROSS JOIN holdfast_documents AS d ON d.tenant_id = :tenant AND d.collection = :collection
    AND d.namespace = :namespace AND d.position = /* place */ holdfast_words_english.rowid
WHERE /* words */ holdfast_words_english MATCH (
        SELECT coalesce(
            group_concat('"' || word || '"', ' OR ') FILTER (WHERE 2 * texts < all_texts),
            group_concat('"' || word || '"', ' OR '),
            '""'
        )
        FROM (
            SELECT json_each.value AS word, t.doc AS texts,
                (SELECT count(*) FROM /* sizes */ holdfast_words_english_docsize) AS all_texts
            FROM json_each(:terms) CROSS JOIN /* terms */ holdfast_terms_english AS t ON t.term = json_each.key
        )
    )
    AND (d.expires_at IS NULL OR d.expires_at > :now) AND /* filter */ 1
ORDER BY /* order */ score
LIMIT :k;
