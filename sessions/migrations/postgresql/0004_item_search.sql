-- up
-- What an item's texts were embedded as, one row a text. real[], so that no extension is needed to store it: a server with
-- pgvector casts it as it computes distances, on others the program computes them.
CREATE TABLE holdfast_item_vectors (
    tenant_id text COLLATE "C" NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    namespace text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    place integer NOT NULL,
    embedding real[] NOT NULL,
    PRIMARY KEY (tenant_id, user_id, namespace, key, place),
    FOREIGN KEY (tenant_id, user_id, namespace, key)
        REFERENCES holdfast_items (tenant_id, user_id, namespace, key) ON DELETE CASCADE
);

-- Tells whether an item's fields meet every condition {"path": […], "op": "$eq", "value": …}. What is missing is null; numbers
-- are ordered among numbers, strings among strings by code point, and nothing else is.
CREATE FUNCTION holdfast_matches(fields jsonb, conditions jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT NOT EXISTS (
        SELECT 1
        FROM jsonb_array_elements(conditions) AS c (condition)
        CROSS JOIN LATERAL (
            SELECT c.condition ->> 'op' AS op, c.condition -> 'value' AS wanted,
                COALESCE(fields #> ARRAY(SELECT jsonb_array_elements_text(c.condition -> 'path')), 'null') AS found
        ) AS v
        CROSS JOIN LATERAL (
            SELECT CASE
                WHEN jsonb_typeof(v.found) = 'number' AND jsonb_typeof(v.wanted) = 'number'
                    THEN sign(CAST(v.found AS numeric) - CAST(v.wanted AS numeric))
                WHEN jsonb_typeof(v.found) = 'string' AND jsonb_typeof(v.wanted) = 'string' THEN CASE
                    WHEN (v.found #>> '{}') COLLATE "C" < (v.wanted #>> '{}') THEN -1
                    WHEN (v.found #>> '{}') COLLATE "C" > (v.wanted #>> '{}') THEN 1
                    ELSE 0
                END
            END AS sign
        ) AS o
        WHERE NOT COALESCE(CASE v.op
            WHEN '$eq' THEN v.found = v.wanted
            WHEN '$ne' THEN v.found <> v.wanted
            WHEN '$gt' THEN o.sign > 0
            WHEN '$gte' THEN o.sign >= 0
            WHEN '$lt' THEN o.sign < 0
            WHEN '$lte' THEN o.sign <= 0
            WHEN '$object' THEN jsonb_typeof(v.found) = 'object'
        END, false)
    )
$$;

-- down
DROP FUNCTION holdfast_matches(jsonb, jsonb);
DROP TABLE holdfast_item_vectors;
