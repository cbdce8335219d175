-- The way back from 2, which keeps every row: two namespaces with the same id ended it, and what lay in others, or had a
-- time to go, would have been found by an older program like everything else. Adopted tables are left as they are.
-- up
COMMENT ON TABLE holdfast_documents IS 'what the table of a collection is made like';

-- down
DO $$
DECLARE
    found text;
BEGIN
    FOR found IN
        SELECT relation FROM holdfast_collections
        WHERE columns IS NULL AND to_regclass(relation) IS NOT NULL ORDER BY relation
    LOOP
        EXECUTE format('DELETE FROM %I WHERE namespace <> ''default'' OR expires_at IS NOT NULL', found);
    END LOOP;
END
$$;
COMMENT ON TABLE holdfast_documents IS NULL;
