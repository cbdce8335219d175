-- up
-- As on PostgreSQL; an embedding is its float32 numbers, little-endian.
CREATE TABLE holdfast_graph_vectors (
    tenant_id TEXT NOT NULL,
    scope TEXT NOT NULL,
    id TEXT NOT NULL,
    embedding BLOB NOT NULL,
    PRIMARY KEY (tenant_id, scope, id),
    FOREIGN KEY (tenant_id, scope, id) REFERENCES holdfast_graph_nodes (tenant_id, scope, id) ON DELETE CASCADE
);

-- down
DROP TABLE holdfast_graph_vectors;
