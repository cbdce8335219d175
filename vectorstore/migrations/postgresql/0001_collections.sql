-- The collections of this database. Each has a table of its own, because vector(n) fixes the dimensions of a column; it
-- is made on first use, like holdfast_documents (which stays empty), and holds the documents of every tenant, so the
-- name alone is the key of holdfast_collections. A later migration changes holdfast_documents and each `relation`.
-- up
CREATE TABLE holdfast_documents (
    tenant_id text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    content text NOT NULL,
    metadata jsonb NOT NULL,
    embedding vector NOT NULL,
    version bigint NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id)
);
-- jsonb_path_ops answers containment alone, which is what equality compiles to, from an index a third as large.
CREATE INDEX holdfast_documents_metadata ON holdfast_documents USING gin (metadata jsonb_path_ops);
CREATE TABLE holdfast_collections (
    collection text COLLATE "C" PRIMARY KEY,
    relation text NOT NULL,
    dimensions integer NOT NULL,
    metric text NOT NULL,
    model text,
    indexed boolean NOT NULL DEFAULT false,
    index_type text,
    index_options jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now()
);

-- down
DO $$
DECLARE
    found text;
BEGIN
    FOR found IN SELECT relation FROM holdfast_collections ORDER BY relation LOOP
        EXECUTE format('DROP TABLE IF EXISTS %I', found);
    END LOOP;
END
$$;
DROP TABLE holdfast_collections;
DROP TABLE holdfast_documents;
