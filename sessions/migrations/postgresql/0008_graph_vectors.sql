-- up
-- What a node was embedded as. A table of its own, so that reading and merging nodes doesn't carry it along; real[], so that
-- no extension is needed to store it, and that one scope may hold vectors of several models.
CREATE TABLE holdfast_graph_vectors (
    tenant_id text COLLATE "C" NOT NULL,
    scope text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    embedding real[] NOT NULL,
    PRIMARY KEY (tenant_id, scope, id),
    FOREIGN KEY (tenant_id, scope, id) REFERENCES holdfast_graph_nodes (tenant_id, scope, id) ON DELETE CASCADE
);

-- down
DROP TABLE holdfast_graph_vectors;
