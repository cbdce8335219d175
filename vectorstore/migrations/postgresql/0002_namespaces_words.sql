-- Namespaces become part of the key, documents may have a source and an end, and words may be searched. All of it goes
-- to the table that new collections are made like, and to the table of each collection. New ones get their index over
-- metadata with that of vectors, behind a load, which it would make half as long again.
-- up
DROP INDEX holdfast_documents_metadata;
ALTER TABLE holdfast_collections
    ADD COLUMN language text,
    ADD COLUMN keys jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN vector_type text NOT NULL DEFAULT 'vector',
    ADD COLUMN columns jsonb;
DO $$
DECLARE
    found text;
BEGIN
    FOR found IN
        SELECT 'holdfast_documents'
        UNION ALL SELECT relation FROM holdfast_collections WHERE to_regclass(relation) IS NOT NULL ORDER BY 1
    LOOP
        EXECUTE format(
            'ALTER TABLE %1$I DROP CONSTRAINT %2$I,'
            ' ADD COLUMN namespace text COLLATE "C" NOT NULL DEFAULT ''default'','
            ' ADD COLUMN source text COLLATE "C", ADD COLUMN expires_at timestamptz, ADD COLUMN words tsvector,'
            ' ALTER COLUMN words SET STATISTICS 300,'
            ' ADD PRIMARY KEY (tenant_id, namespace, id)',
            found,
            (SELECT conname FROM pg_constraint WHERE conrelid = to_regclass(found) AND contype = 'p')
        );
        EXECUTE format(
            'CREATE INDEX ON %I (tenant_id, namespace, source) WHERE source IS NOT NULL', found
        );
        EXECUTE format('CREATE INDEX ON %I (expires_at) WHERE expires_at IS NOT NULL', found);
    END LOOP;
END
$$;

-- down
DO $$
DECLARE
    found text;
BEGIN
    FOR found IN SELECT relation FROM holdfast_collections WHERE columns IS NOT NULL ORDER BY relation LOOP
        EXECUTE format('DROP VIEW IF EXISTS %I', found);
    END LOOP;
    DELETE FROM holdfast_collections WHERE columns IS NOT NULL;
END
$$;
CREATE INDEX holdfast_documents_metadata ON holdfast_documents USING gin (metadata jsonb_path_ops);
DO $$
DECLARE
    found text;
BEGIN
    FOR found IN
        SELECT 'holdfast_documents'
        UNION ALL SELECT relation FROM holdfast_collections WHERE to_regclass(relation) IS NOT NULL ORDER BY 1
    LOOP
        EXECUTE format(
            'ALTER TABLE %1$I DROP CONSTRAINT %2$I, DROP COLUMN namespace, DROP COLUMN source, DROP COLUMN expires_at,'
            ' DROP COLUMN words, ADD PRIMARY KEY (tenant_id, id)',
            found,
            (SELECT conname FROM pg_constraint WHERE conrelid = to_regclass(found) AND contype = 'p')
        );
    END LOOP;
END
$$;
ALTER TABLE holdfast_collections
    DROP COLUMN language, DROP COLUMN keys, DROP COLUMN vector_type, DROP COLUMN columns;
