-- The documents of a collection are in a table like holdfast_documents. What stands behind /* table */ and /* near */
-- becomes its name and the operator of its metric; behind /* filter */ comes a condition whose values are parameters,
-- behind /* embedding */ the column, where it was asked for; /* content */ and /* metadata */ are left out where only ids
-- matter. /* query */ and /* column */ are converted to the type that
-- is compared, /* stored */ to the type of the column. What has expired is gone for every statement that reads.

-- name: collection
-- What a collection was made for, and what is really there: its table, its size, the names of its indexes, and an index
-- of vectors that is whole.
SELECT c.dimensions, c.metric, c.model, c.language, c.keys, c.vector_type, c.columns, t.relname AS base,
       t.oid IS NOT NULL AND to_regclass(c.relation) IS NOT NULL AS present,
       CAST(greatest(t.reltuples, 0) AS bigint) AS rows,
       ARRAY(
           SELECT CAST(r.relname AS text) FROM pg_index AS x JOIN pg_class AS r ON r.oid = x.indexrelid
           WHERE x.indrelid = t.oid
       ) AS indexes,
       i.index_name, i.index_type, i.index_options
FROM holdfast_collections AS c
LEFT JOIN pg_class AS t ON t.oid = to_regclass(coalesce(c.columns ->> 'table', c.relation))
LEFT JOIN LATERAL (
    SELECT r.relname AS index_name, a.amname AS index_type, r.reloptions AS index_options
    FROM pg_index AS x
    JOIN pg_class AS r ON r.oid = x.indexrelid
    JOIN pg_am AS a ON a.oid = r.relam AND a.amname IN ('hnsw', 'ivfflat')
    JOIN pg_opclass AS o ON o.oid = x.indclass[0] AND o.opcname = :operators
    WHERE x.indrelid = t.oid AND x.indisvalid AND x.indpred IS NULL
    ORDER BY a.amname, r.relname
    LIMIT 1
) AS i ON true
WHERE c.collection = :collection;

-- name: lock_collections
-- Held to the end of the transaction, so that two programs never make the same table.
SELECT pg_advisory_xact_lock(hashtextextended('holdfast_collections', 0));

-- name: register
-- A table that was dropped by hand left its row behind, which must say what the new one is made for.
INSERT INTO holdfast_collections (collection, relation, dimensions, metric, model, vector_type, columns)
VALUES (:collection, :relation, :dimensions, :metric, :model, :vector_type, CAST(:columns AS jsonb))
ON CONFLICT (collection) DO UPDATE SET
    dimensions = excluded.dimensions, metric = excluded.metric, model = excluded.model, indexed = false,
    language = NULL, keys = '{}', vector_type = excluded.vector_type, columns = excluded.columns;

-- name: column_types
-- The columns of a table that is adopted.
SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type FROM pg_attribute AS a
WHERE a.attrelid = to_regclass(:table) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum;

-- name: adopt_model
-- The first program that names an embedding model decides; a race leaves the first one's.
UPDATE holdfast_collections SET model = :model WHERE collection = :collection AND model IS NULL;

-- name: extend
-- What a collection got after it was made.
UPDATE holdfast_collections SET language = coalesce(:language, language), keys = keys || CAST(:keys AS jsonb)
WHERE collection = :collection;

-- name: upsert
-- hot: a whole batch in one statement, a column a parameter: as fast as COPY, in one round trip. The ids are in order,
-- so writers of the same documents wait for one another and never deadlock. What had expired was gone, so what takes its
-- place is new.
INSERT INTO /* table */ holdfast_documents AS d
    (tenant_id, namespace, id, content, metadata, embedding, source, expires_at)
SELECT :tenant, :namespace, n.id, n.content, CAST(n.metadata AS jsonb), /* stored */ n.embedding, n.source,
       CAST(n.expires_at AS timestamptz)
FROM unnest(
    CAST(:ids AS text[]), CAST(:contents AS text[]), CAST(:metadata AS text[]), CAST(:embeddings AS vector[]),
    CAST(:sources AS text[]), CAST(:expiries AS text[])
) AS n (id, content, metadata, embedding, source, expires_at)
ON CONFLICT (tenant_id, namespace, id) DO UPDATE SET
    content = excluded.content, metadata = excluded.metadata, embedding = excluded.embedding,
    source = excluded.source, expires_at = excluded.expires_at, updated_at = now(),
    version = CASE WHEN d.expires_at <= now() THEN 1 ELSE d.version + 1 END,
    created_at = CASE WHEN d.expires_at <= now() THEN now() ELSE d.created_at END;

-- name: update
-- hot: what isn't given comes as NULL, and stays.
UPDATE /* table */ holdfast_documents SET
    content = coalesce(CAST(:content AS text), content),
    metadata = coalesce(CAST(:metadata AS jsonb), metadata),
    embedding = coalesce(/* stored */ CAST(:embedding AS vector), embedding),
    source = coalesce(CAST(:source AS text), source),
    expires_at = CASE WHEN :never THEN NULL ELSE coalesce(CAST(:expires_at AS timestamptz), expires_at) END,
    version = version + 1, updated_at = now()
WHERE tenant_id = :tenant AND namespace = :namespace AND id = :id AND (expires_at IS NULL OR expires_at > now());

-- name: patch
-- hot: merges into the row as it is under the lock. Every key of the patch is taken out, then the new values go in.
UPDATE /* table */ holdfast_documents SET
    metadata = (metadata - ARRAY(SELECT jsonb_object_keys(CAST(:touched AS jsonb)))) || CAST(:changes AS jsonb),
    version = version + 1, updated_at = now()
WHERE tenant_id = :tenant AND namespace = :namespace AND id = :id AND (expires_at IS NULL OR expires_at > now());

-- name: upsert_adopted
-- What it has no columns for is not given.
INSERT INTO /* base */ holdfast_documents AS d
    (/* id_column */ id, /* content_column */ content, /* metadata_column */ metadata, /* embedding_column */ embedding)
SELECT CAST(n.id AS /* id_type */ text), n.content, CAST(n.metadata AS /* metadata_type */ jsonb),
       /* stored */ n.embedding
FROM unnest(
    CAST(:ids AS text[]), CAST(:contents AS text[]), CAST(:metadata AS text[]), CAST(:embeddings AS vector[])
) AS n (id, content, metadata, embedding)
ON CONFLICT (/* id_column */ id) DO UPDATE SET
    /* content_column */ content = excluded./* content_column */ content,
    /* metadata_column */ metadata = excluded./* metadata_column */ metadata,
    /* embedding_column */ embedding = excluded./* embedding_column */ embedding;

-- name: update_adopted
-- What isn't given comes as NULL, and stays.
UPDATE /* base */ holdfast_documents SET
    /* content_column */ content = coalesce(CAST(:content AS text), /* content_column */ content),
    /* metadata_column */ metadata = coalesce(
        CAST(CAST(:metadata AS text) AS /* metadata_type */ jsonb), /* metadata_column */ metadata
    ),
    /* embedding_column */ embedding = coalesce(
        /* stored */ CAST(:embedding AS vector), /* embedding_column */ embedding
    )
WHERE /* id_column */ id = CAST(CAST(:id AS text) AS /* id_type */ text);

-- name: patch_adopted
-- The merge of patch; a row without metadata has none.
UPDATE /* base */ holdfast_documents SET
    /* metadata_column */ metadata = CAST(
        (
            coalesce(CAST(/* metadata_column */ metadata AS jsonb), '{}')
            - ARRAY(SELECT jsonb_object_keys(CAST(:touched AS jsonb)))
        ) || CAST(:changes AS jsonb) AS /* metadata_type */ jsonb
    )
WHERE /* id_column */ id = CAST(CAST(:id AS text) AS /* id_type */ text);

-- name: selected_refused
-- The first selected document that a store would refuse, and why, before anything is written.
SELECT n.id, CASE
    WHEN n.id IS NULL OR octet_length(n.id) NOT BETWEEN 1 AND :id_bytes THEN 'has an id that is empty or too long'
    WHEN n.embedding IS NULL THEN 'has no embedding'
    WHEN vector_dims(n.embedding) <> :dimensions THEN 'has an embedding of other dimensions than the collection'
    WHEN jsonb_typeof(n.metadata) <> 'object' THEN 'has metadata that are no object'
    ELSE 'has an embedding whose length the metric can''t take'
END AS reason
FROM /* source */ holdfast_documents AS n
WHERE n.id IS NULL OR octet_length(n.id) NOT BETWEEN 1 AND :id_bytes OR n.embedding IS NULL
   OR vector_dims(n.embedding) <> :dimensions OR jsonb_typeof(n.metadata) <> 'object'
   OR vector_norm(n.embedding) > :longest OR vector_norm(n.embedding) < :shortest
ORDER BY n.id
LIMIT 1;

-- name: store_selected
-- In the order of the ids, as writers lock them; what was there before is replaced, as storing it again would.
INSERT INTO /* table */ holdfast_documents AS d (tenant_id, namespace, id, content, metadata, embedding)
SELECT :tenant, :namespace, n.id, n.content, n.metadata, n.embedding
FROM /* source */ holdfast_documents AS n
ORDER BY n.id COLLATE "C"
ON CONFLICT (tenant_id, namespace, id) DO UPDATE SET
    content = excluded.content, metadata = excluded.metadata, embedding = excluded.embedding,
    source = NULL, expires_at = NULL, updated_at = now(),
    version = CASE WHEN d.expires_at <= now() THEN 1 ELSE d.version + 1 END,
    created_at = CASE WHEN d.expires_at <= now() THEN now() ELSE d.created_at END;

-- name: get_many
-- hot: in the order of the ids asked for.
SELECT d.id, d.content, CAST(d.metadata AS text) AS metadata, /* embedding */ NULL AS embedding,
       d.source, d.expires_at, d.created_at, d.updated_at
FROM unnest(CAST(:ids AS text[])) WITH ORDINALITY AS wanted (id, place)
JOIN /* table */ holdfast_documents AS d ON d.tenant_id = :tenant AND d.namespace = :namespace AND d.id = wanted.id
WHERE d.expires_at IS NULL OR d.expires_at > now()
ORDER BY wanted.place;

-- name: list_page
-- hot: by the key, behind the last id that was given.
SELECT d.id, d.content, CAST(d.metadata AS text) AS metadata, /* embedding */ NULL AS embedding,
       d.source, d.expires_at, d.created_at, d.updated_at
FROM /* table */ holdfast_documents AS d
WHERE d.tenant_id = :tenant AND d.namespace = :namespace AND d.id > :after
  AND (d.expires_at IS NULL OR d.expires_at > now()) AND /* filter */ true
ORDER BY d.id
LIMIT :limit;

-- name: delete
-- hot: ids that aren't there are no error.
DELETE FROM /* table */ holdfast_documents
WHERE tenant_id = :tenant AND namespace = :namespace AND id = ANY (CAST(:ids AS text[]))
  AND (expires_at IS NULL OR expires_at > now());

-- name: delete_where
-- In the order of the ids, as writers lock them.
DELETE FROM /* table */ holdfast_documents AS d USING (
    SELECT tenant_id, namespace, id FROM /* table */ holdfast_documents AS d
    WHERE tenant_id = :tenant AND namespace = :namespace
      AND (expires_at IS NULL OR expires_at > now()) AND /* filter */ true
    ORDER BY id
    FOR UPDATE
) AS gone
WHERE d.tenant_id = gone.tenant_id AND d.namespace = gone.namespace AND d.id = gone.id;

-- name: lock_source
-- Held to the end of the transaction: of two that replace a source at once, the second must see what the first stored,
-- to delete it.
SELECT pg_advisory_xact_lock(hashtextextended(concat_ws(chr(31), 'holdfast_sources', CAST(:collection AS text),
    CAST(:tenant AS text), CAST(:namespace AS text), CAST(:source AS text)), 0));

-- name: lock_documents_of_source
-- hot: in the order of the ids, as writers lock them: what is deleted comes after what was stored.
SELECT count(*) FROM (
    SELECT id FROM /* table */ holdfast_documents
    WHERE tenant_id = :tenant AND namespace = :namespace AND source = :source
    ORDER BY id
    FOR UPDATE
) AS locked;

-- name: delete_rest_of_source
-- hot: what a source had before and has no more.
DELETE FROM /* table */ holdfast_documents
WHERE tenant_id = :tenant AND namespace = :namespace AND source = :source AND id <> ALL (CAST(:ids AS text[]));

-- name: delete_expired
-- hot: a bounded number at a time; SKIP LOCKED leaves to others what they write to.
DELETE FROM /* table */ holdfast_documents AS d USING (
    SELECT tenant_id, namespace, id FROM /* table */ holdfast_documents
    WHERE tenant_id = :tenant AND expires_at <= now()
    ORDER BY expires_at
    LIMIT :limit
    FOR UPDATE SKIP LOCKED
) AS gone
WHERE d.tenant_id = gone.tenant_id AND d.namespace = gone.namespace AND d.id = gone.id;

-- name: count
-- Reads each row that passes: an index tells nothing of its expiry.
SELECT count(*) FROM /* table */ holdfast_documents AS d
WHERE tenant_id = :tenant AND namespace = :namespace
  AND (expires_at IS NULL OR expires_at > now()) AND /* filter */ true;

-- name: search_exactly
-- Adding 0 keeps any vector index out. A table that was adopted may have rows without a vector, which is near to nothing;
-- an index has none of these. What is only shown is made outside, for k rows instead of all. `indexed` tells a
-- store that an index has been built since it last looked.
SELECT t.id, /* content */ t.content AS content, /* metadata */ CAST(t.metadata AS text) AS metadata, t.embedding, t.distance,
       (SELECT indexed FROM holdfast_collections WHERE collection = :collection) AS indexed
FROM (
    SELECT id, content, metadata, /* embedding */ NULL AS embedding,
           (embedding /* near */ <=> /* query */ :query) + 0 AS distance
    FROM /* table */ holdfast_documents AS d
    WHERE tenant_id = :tenant AND namespace = :namespace
      AND (expires_at IS NULL OR expires_at > now()) AND embedding IS NOT NULL AND /* filter */ true
    ORDER BY distance, id
    LIMIT /* k */ 10 OFFSET /* offset */ 0
) AS t
ORDER BY t.distance, t.id;

-- name: search_by_index
-- One round trip: the settings hold for this one statement, because the inner query waits for the outer one's rows and
-- both end with it. A relaxed scan goes on until k rows passed the filter and may give them slightly out of order.
-- The CASE leaves the planner no other index to take, and k is written out because it would take an unknown one for a
-- tenth of all rows: so this plan is right for any values, and may be kept. What is left
-- out is known once all are in order.
SELECT t.id, /* content */ t.content AS content, /* metadata */ CAST(t.metadata AS text) AS metadata, t.embedding, t.distance
FROM (
    SELECT set_config(:effort_name, CAST(:effort AS text), true) AS effort,
           set_config(:scan_name, :scan, true) AS scan
) AS setting,
LATERAL (
    SELECT id, content, metadata, /* embedding */ NULL AS embedding,
           embedding /* near */ <=> /* query */ :query AS distance
    FROM /* table */ holdfast_documents AS d
    WHERE setting.effort IS NOT NULL AND setting.scan IS NOT NULL AND CASE
        WHEN tenant_id = :tenant AND namespace = :namespace
            AND (expires_at IS NULL OR expires_at > now()) AND /* filter */ true THEN true
        ELSE false
    END
    ORDER BY /* column */ embedding /* near */ <=> /* nearest */ :query
    LIMIT /* k */ 10
) AS t
ORDER BY t.distance, t.id
OFFSET /* offset */ 0;

-- name: search_many_exactly
-- search_exactly for each of several vectors, in one round trip.
SELECT q.place, t.id, /* content */ t.content AS content, /* metadata */ CAST(t.metadata AS text) AS metadata, t.embedding, t.distance
FROM unnest(CAST(:queries AS vector[])) WITH ORDINALITY AS q (query, place),
LATERAL (
    SELECT id, content, metadata, /* embedding */ NULL AS embedding,
           (embedding /* near */ <=> /* query */ q.query) + 0 AS distance
    FROM /* table */ holdfast_documents AS d
    WHERE tenant_id = :tenant AND namespace = :namespace
      AND (expires_at IS NULL OR expires_at > now()) AND embedding IS NOT NULL AND /* filter */ true
    ORDER BY distance, id
    LIMIT /* k */ 10 OFFSET /* offset */ 0
) AS t
ORDER BY q.place, t.distance, t.id;

-- name: search_many_by_index
-- search_by_index for each of several vectors, in one round trip.
SELECT q.place, t.id, /* content */ t.content AS content, /* metadata */ CAST(t.metadata AS text) AS metadata, t.embedding, t.distance
FROM (
    SELECT set_config(:effort_name, CAST(:effort AS text), true) AS effort,
           set_config(:scan_name, :scan, true) AS scan
) AS setting,
LATERAL unnest(CAST(:queries AS vector[])) WITH ORDINALITY AS q (query, place),
LATERAL (
    SELECT n.id, n.content, n.metadata, n.embedding, n.distance
    FROM (
        SELECT id, content, metadata, /* embedding */ NULL AS embedding,
               embedding /* near */ <=> /* query */ q.query AS distance
        FROM /* table */ holdfast_documents AS d
        WHERE setting.effort IS NOT NULL AND setting.scan IS NOT NULL AND CASE
            WHEN tenant_id = :tenant AND namespace = :namespace
                AND (expires_at IS NULL OR expires_at > now()) AND /* filter */ true THEN true
            ELSE false
        END
        ORDER BY /* column */ embedding /* near */ <=> /* nearest */ q.query
        LIMIT /* k */ 10
    ) AS n
    ORDER BY n.distance, n.id
    OFFSET /* offset */ 0
) AS t
ORDER BY q.place, t.distance, t.id;

-- name: estimate
-- How many documents pass a filter, by the planner's own estimate for these very values; nothing is read.
EXPLAIN (FORMAT JSON) SELECT 1 FROM /* table */ holdfast_documents AS d
WHERE tenant_id = :tenant AND namespace = :namespace
  AND (expires_at IS NULL OR expires_at > now()) AND /* filter */ true;

-- name: sample
-- What the planner has no figures for is tried on some pages, chosen at random.
SELECT count(*) AS seen, count(*) FILTER (
    WHERE tenant_id = :tenant AND namespace = :namespace
      AND (expires_at IS NULL OR expires_at > now()) AND /* filter */ true
) AS passed
FROM /* table */ holdfast_documents AS d TABLESAMPLE SYSTEM (CAST(:percent AS real));

-- name: search_words
-- Terms are joined by or, each weighted by how rare it is (its idf): few documents have all words of a question. How
-- rare a term is comes from the column's statistics; what they don't list is rarer than all they do. Before there are
-- any, it is counted. Documents are looked up by the rarest terms that make up for some thousands, and scored by all.
WITH figures AS MATERIALIZED (
    SELECT CASE WHEN c.reltuples > 0 THEN c.reltuples ELSE (
               SELECT count(*) FROM (SELECT 1 FROM /* table */ holdfast_documents AS d LIMIT 10000) AS counted
           ) END AS rows, CAST(CAST(s.most_common_elems AS text) AS text[]) AS terms,
           s.most_common_elem_freqs AS shares
    FROM pg_class AS c
    LEFT JOIN pg_stats AS s ON s.schemaname = CAST(CAST(c.relnamespace AS regnamespace) AS text)
        AND s.tablename = c.relname AND s.attname = 'words'
    WHERE c.oid = to_regclass(:relation)
), listed AS MATERIALIZED (
    SELECT l.term, l.share FROM figures, unnest(terms, shares[1 : cardinality(terms)]) AS l (term, share)
), rarest AS MATERIALIZED (
    SELECT min(share) / 2 AS share FROM listed
), counted AS MATERIALIZED (
    SELECT quote_literal(q.lexeme) AS term, f.rows, least(f.rows, CASE
        WHEN f.terms IS NOT NULL THEN f.rows * coalesce(l.share, r.share, 0)
        ELSE (
            SELECT count(*) FROM (
                SELECT 1 FROM /* table */ holdfast_documents AS d
                WHERE d.words @@ CAST(quote_literal(q.lexeme) AS tsquery) LIMIT 10000
            ) AS holding
        )
    END) AS count
    FROM figures AS f
    CROSS JOIN rarest AS r
    CROSS JOIN unnest(to_tsvector(CAST(:language AS regconfig), :text)) AS q
    LEFT JOIN listed AS l ON l.term = q.lexeme
), terms AS MATERIALIZED (
    SELECT c.term, ln(1 + (c.rows - c.count + 0.5) / (c.count + 0.5)) AS weight,
           sum(c.count) OVER (ORDER BY c.count, c.term) - c.count AS before
    FROM counted AS c
), wanted AS MATERIALIZED (
    SELECT array_agg(CAST(t.term AS tsquery) ORDER BY t.term) AS terms, array_agg(t.weight ORDER BY t.term) AS weights,
           CAST(string_agg(t.term, '|') FILTER (WHERE t.before < :enough) AS tsquery) AS query
    FROM terms AS t
)
SELECT t.id, /* content */ t.content AS content, /* metadata */ CAST(t.metadata AS text) AS metadata, t.embedding, t.score
FROM (
    SELECT d.id, d.content, d.metadata, /* embedding */ NULL AS embedding, (
        SELECT sum(w.weight * ts_rank(d.words, w.term, 1))
        FROM unnest((SELECT terms FROM wanted), (SELECT weights FROM wanted)) AS w (term, weight)
    ) AS score
    FROM /* table */ holdfast_documents AS d
    WHERE d.words @@ (SELECT query FROM wanted) AND tenant_id = :tenant AND namespace = :namespace
      AND (expires_at IS NULL OR expires_at > now()) AND /* filter */ true
    ORDER BY score DESC, d.id
    LIMIT /* k */ 10 OFFSET /* offset */ 0
) AS t
ORDER BY t.score DESC, t.id;

-- name: mark_indexed
-- So that stores which search without an index learn of it.
UPDATE holdfast_collections SET indexed = :indexed WHERE collection = :collection;

-- name: limit_memory
-- For this transaction. Where the caller named no limit, the server's own is not lowered.
SELECT set_config('maintenance_work_mem', CAST(CASE
    WHEN :least THEN greatest(pg_size_bytes(current_setting('maintenance_work_mem')) / 1048576, :megabytes)
    ELSE :megabytes
END AS text) || 'MB', true);

-- name: limit_workers
-- For this transaction.
SELECT set_config('max_parallel_maintenance_workers', :workers, true);

-- name: index_progress
-- What the server tells of an index that is being made on a table.
SELECT phase, tuples_done AS done, tuples_total AS total FROM pg_stat_progress_create_index
WHERE relid = to_regclass(:relation) AND datname = current_database()
ORDER BY pid
LIMIT 1;
