-- up
-- What SQLite's index needs: here jsonb is never damaged, so that nothing changes but what is said of it.
COMMENT ON INDEX holdfast_graph_nodes_user IS 'who is named, by hash';

-- down
COMMENT ON INDEX holdfast_graph_nodes_user IS NULL;
