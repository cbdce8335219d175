-- Namespaced items in batches, for LangGraph's store. Each statement takes :tenant and :user_id; what has expired is not
-- there for any of them. A namespace is below a prefix when it lies between it and the text that ends one higher.

-- name: item_get
-- hot: one probe of the primary key; for one, a join over arrays would be planned for many.
SELECT 'get' AS kind, 1 AS place, namespace, key, CAST(value AS text) AS value, created_at, updated_at, ttl_micros,
    expires_at, statement_timestamp() AS now
FROM holdfast_items
WHERE tenant_id = :tenant AND user_id = :user_id AND namespace = :namespace AND key = :key
    AND (expires_at IS NULL OR expires_at > statement_timestamp());

-- name: item_get_many
-- hot: a batch that only gets; one probe of the primary key for each.
SELECT 'get' AS kind, g.place, i.namespace, i.key, CAST(i.value AS text) AS value, i.created_at, i.updated_at, i.ttl_micros,
    i.expires_at, statement_timestamp() AS now
FROM unnest(CAST(:get_namespaces AS text[]), CAST(:get_keys AS text[])) WITH ORDINALITY AS g (namespace, key, place)
JOIN holdfast_items AS i
    ON i.tenant_id = :tenant AND i.user_id = :user_id AND i.namespace = g.namespace AND i.key = g.key
WHERE i.expires_at IS NULL OR i.expires_at > statement_timestamp();

-- name: list_items
-- hot: a batch of one search; a range of the primary key, sorted, since no index holds what each write changes. Values
-- are turned into text after the limit, not for every row that is sorted.
SELECT f.namespace, f.key, CAST(f.value AS text) AS value, f.created_at, f.updated_at, f.ttl_micros, f.expires_at,
    statement_timestamp() AS now
FROM (
    SELECT i.namespace, i.key, i.value, i.created_at, i.updated_at, i.ttl_micros, i.expires_at
    FROM holdfast_items AS i
    WHERE i.tenant_id = :tenant AND i.user_id = :user_id AND i.namespace >= :from AND i.namespace < :below
        AND (i.expires_at IS NULL OR i.expires_at > statement_timestamp())
        AND (CAST(:contains AS jsonb) = '{}' OR i.fields @> CAST(:contains AS jsonb))
        AND (CAST(:conditions AS jsonb) = '[]' OR holdfast_matches(i.fields, CAST(:conditions AS jsonb)))
    ORDER BY i.updated_at DESC, i.namespace, i.key LIMIT :limit OFFSET :offset
) AS f
ORDER BY f.updated_at DESC, f.namespace, f.key;

-- name: item_put
-- hot: a batch that writes one item without vectors; an earlier one may have had some.
WITH dropped AS (
    DELETE FROM holdfast_item_vectors
    WHERE tenant_id = :tenant AND user_id = :user_id AND namespace = :namespace AND key = :key
)
INSERT INTO holdfast_items AS i
    (tenant_id, user_id, namespace, key, value, fields, topics, subscribers, version, ttl_micros, expires_at,
     created_at, updated_at)
VALUES (:tenant, :user_id, :namespace, :key, CAST(:value AS json), CAST(:fields AS jsonb), '{}', '{}', 1,
    CAST(:ttl AS bigint), statement_timestamp() + CAST(:ttl AS bigint) * INTERVAL '1 microsecond',
    statement_timestamp(), statement_timestamp())
ON CONFLICT (tenant_id, user_id, namespace, key) DO UPDATE SET
    value = excluded.value, fields = excluded.fields,
    version = CASE WHEN i.expires_at <= statement_timestamp() THEN 1 ELSE i.version + 1 END,
    ttl_micros = excluded.ttl_micros, expires_at = excluded.expires_at,
    created_at = CASE WHEN i.expires_at <= statement_timestamp() THEN excluded.created_at ELSE i.created_at END,
    updated_at = greatest(i.updated_at, excluded.updated_at);

-- name: item_write_many
-- hot: a batch that only writes. The puts are in the order of their places, so that those of the same items wait for one
-- another.
WITH written AS (
    INSERT INTO holdfast_items AS i
        (tenant_id, user_id, namespace, key, value, fields, topics, subscribers, version, ttl_micros, expires_at,
         created_at, updated_at)
    SELECT :tenant, :user_id, p.namespace, p.key, CAST(p.value AS json), CAST(p.fields AS jsonb), '{}', '{}', 1, p.ttl,
        statement_timestamp() + p.ttl * INTERVAL '1 microsecond', statement_timestamp(), statement_timestamp()
    FROM unnest(CAST(:put_namespaces AS text[]), CAST(:put_keys AS text[]), CAST(:put_values AS text[]),
        CAST(:put_fields AS text[]), CAST(:put_ttls AS bigint[])) AS p (namespace, key, value, fields, ttl)
    ON CONFLICT (tenant_id, user_id, namespace, key) DO UPDATE SET
        value = excluded.value, fields = excluded.fields,
        version = CASE WHEN i.expires_at <= statement_timestamp() THEN 1 ELSE i.version + 1 END,
        ttl_micros = excluded.ttl_micros, expires_at = excluded.expires_at,
        created_at = CASE WHEN i.expires_at <= statement_timestamp() THEN excluded.created_at ELSE i.created_at END,
        updated_at = greatest(i.updated_at, excluded.updated_at)
), deleted AS (
    DELETE FROM holdfast_items AS i
    USING unnest(CAST(:delete_namespaces AS text[]), CAST(:delete_keys AS text[])) AS d (namespace, key)
    WHERE i.tenant_id = :tenant AND i.user_id = :user_id AND i.namespace = d.namespace AND i.key = d.key
), shortened AS (
    DELETE FROM holdfast_item_vectors AS v
    USING unnest(CAST(:put_namespaces AS text[]), CAST(:put_keys AS text[]), CAST(:put_vectors AS integer[]))
        AS p (namespace, key, vectors)
    WHERE v.tenant_id = :tenant AND v.user_id = :user_id AND v.namespace = p.namespace AND v.key = p.key
        AND v.place >= p.vectors
), embedded AS (
    INSERT INTO holdfast_item_vectors (tenant_id, user_id, namespace, key, place, embedding)
    SELECT :tenant, :user_id, e.namespace, e.key, e.place, CAST(e.embedding AS real[])
    FROM unnest(CAST(:vector_namespaces AS text[]), CAST(:vector_keys AS text[]), CAST(:vector_places AS integer[]),
        CAST(:vectors AS text[])) AS e (namespace, key, place, embedding)
    ON CONFLICT (tenant_id, user_id, namespace, key, place) DO UPDATE SET embedding = excluded.embedding
)
SELECT 1;

-- name: item_refresh
-- hot: renews times to live. The program asks for it once a twentieth has passed, so that most reads write nothing. What
-- somebody is writing is skipped: a read waits for nobody.
UPDATE holdfast_items AS i SET expires_at = statement_timestamp() + i.ttl_micros * INTERVAL '1 microsecond'
FROM (
    SELECT l.namespace, l.key FROM unnest(CAST(:namespaces AS text[]), CAST(:keys AS text[])) AS r (namespace, key)
    JOIN holdfast_items AS l
        ON l.tenant_id = :tenant AND l.user_id = :user_id AND l.namespace = r.namespace AND l.key = r.key
    FOR UPDATE OF l SKIP LOCKED
) AS due
WHERE i.tenant_id = :tenant AND i.user_id = :user_id AND i.namespace = due.namespace AND i.key = due.key
    AND i.expires_at > statement_timestamp();

-- name: item_read_many
-- hot: the reads of a batch, which all see one state. Its writes come behind it, in the same round trip and transaction,
-- so that no read sees any of them.
WITH got AS (
    SELECT g.place, i.namespace, i.key, CAST(i.value AS text) AS value, i.created_at, i.updated_at, i.ttl_micros,
        i.expires_at
    FROM unnest(CAST(:get_namespaces AS text[]), CAST(:get_keys AS text[])) WITH ORDINALITY
        AS g (namespace, key, place)
    JOIN holdfast_items AS i
        ON i.tenant_id = :tenant AND i.user_id = :user_id AND i.namespace = g.namespace AND i.key = g.key
    WHERE i.expires_at IS NULL OR i.expires_at > statement_timestamp()
), searched AS (
    SELECT s.place, f.namespace, f.key, CAST(f.value AS text) AS value, f.created_at, f.updated_at, f.ttl_micros,
        f.expires_at
    FROM jsonb_array_elements(CAST(:searches AS jsonb)) WITH ORDINALITY AS s (spec, place)
    CROSS JOIN LATERAL (
        SELECT i.namespace, i.key, i.value, i.created_at, i.updated_at, i.ttl_micros, i.expires_at
        FROM holdfast_items AS i
        WHERE i.tenant_id = :tenant AND i.user_id = :user_id AND i.namespace >= s.spec ->> 'from'
            AND i.namespace < s.spec ->> 'below' AND (i.expires_at IS NULL OR i.expires_at > statement_timestamp())
            AND (s.spec -> 'contains' = '{}' OR i.fields @> (s.spec -> 'contains'))
            AND (s.spec -> 'conditions' = '[]' OR holdfast_matches(i.fields, s.spec -> 'conditions'))
        ORDER BY i.updated_at DESC, i.namespace, i.key
        LIMIT CAST(s.spec ->> 'limit' AS bigint) OFFSET CAST(s.spec ->> 'offset' AS bigint)
    ) AS f
), listed AS (
    SELECT l.place, f.namespace
    FROM jsonb_array_elements(CAST(:listings AS jsonb)) WITH ORDINALITY AS l (spec, place)
    CROSS JOIN LATERAL (
        SELECT DISTINCT array_to_string(
            n.labels[1:1 + COALESCE(CAST(l.spec ->> 'depth' AS integer), cardinality(n.labels))], chr(31)
        ) || chr(31) COLLATE "C" AS namespace
        FROM (
            SELECT string_to_array(left(i.namespace, -1), chr(31)) AS labels
            FROM holdfast_items AS i
            WHERE i.tenant_id = :tenant AND i.user_id = :user_id AND i.namespace >= l.spec ->> 'from'
                AND i.namespace < l.spec ->> 'below'
                AND (i.expires_at IS NULL OR i.expires_at > statement_timestamp())
        ) AS n
        WHERE NOT EXISTS (
            SELECT 1 FROM jsonb_array_elements(l.spec -> 'conditions') AS c (condition)
            WHERE cardinality(n.labels) - 1 < jsonb_array_length(c.condition -> 'path') OR EXISTS (
                SELECT 1 FROM jsonb_array_elements_text(c.condition -> 'path') WITH ORDINALITY AS p (label, step)
                WHERE p.label <> n.labels[p.step + CASE
                    WHEN CAST(c.condition ->> 'suffix' AS boolean)
                        THEN cardinality(n.labels) - jsonb_array_length(c.condition -> 'path')
                    ELSE 1
                END]
            )
        )
        ORDER BY namespace
        LIMIT CAST(l.spec ->> 'limit' AS bigint) OFFSET CAST(l.spec ->> 'offset' AS bigint)
    ) AS f
)
SELECT 'get' AS kind, place, namespace, key, value, created_at, updated_at, ttl_micros, expires_at,
    statement_timestamp() AS now FROM got
UNION ALL SELECT 'search', place, namespace, key, value, created_at, updated_at, ttl_micros, expires_at,
    statement_timestamp() FROM searched
UNION ALL SELECT 'list', place, namespace, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM listed;

-- name: item_nearest
-- hot: the items below a prefix by the nearest of their vectors, exactly; what has no vector comes last. Only on a server
-- with pgvector. The metric's own operator would need an index on one dimension, which a store of texts doesn't fix.
SELECT i.namespace, i.key, CAST(i.value AS text) AS value, i.created_at, i.updated_at, i.ttl_micros,
    i.expires_at, statement_timestamp() AS now, n.score
FROM holdfast_items AS i
CROSS JOIN LATERAL (
    SELECT max(CASE CAST(:metric AS text)
        -- A vector of zeros has no direction: its cosine is NaN, which would sort first.
        WHEN 'cosine' THEN NULLIF(1 - (CAST(v.embedding AS vector) <=> CAST(:vector AS vector)), 'NaN')
        WHEN 'l2' THEN -(CAST(v.embedding AS vector) <-> CAST(:vector AS vector))
        ELSE -(CAST(v.embedding AS vector) <#> CAST(:vector AS vector))
    END) AS score
    FROM holdfast_item_vectors AS v
    WHERE v.tenant_id = :tenant AND v.user_id = :user_id AND v.namespace = i.namespace AND v.key = i.key
        AND cardinality(v.embedding) = CAST(:dimensions AS integer)
) AS n
WHERE i.tenant_id = :tenant AND i.user_id = :user_id AND i.namespace >= :from AND i.namespace < :below
    AND (i.expires_at IS NULL OR i.expires_at > statement_timestamp())
    AND (CAST(:contains AS jsonb) = '{}' OR i.fields @> CAST(:contains AS jsonb))
    AND (CAST(:conditions AS jsonb) = '[]' OR holdfast_matches(i.fields, CAST(:conditions AS jsonb)))
ORDER BY n.score DESC NULLS LAST, i.updated_at DESC, i.namespace, i.key
LIMIT :limit OFFSET :offset;
