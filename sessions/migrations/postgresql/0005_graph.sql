-- up
-- The words of a node, kept by attribute so that a merge replaces those of the attributes that it replaces. What a word is
-- is told by the program, hence no parser here; 2,500 of them fit into one tsvector however long they are.
CREATE FUNCTION holdfast_graph_words(words jsonb) RETURNS tsvector LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT array_to_tsvector(ARRAY(
        SELECT DISTINCT w.word COLLATE "C"
        FROM jsonb_each(words) AS a (name, list) CROSS JOIN LATERAL jsonb_array_elements_text(a.list) AS w (word)
        ORDER BY 1 LIMIT 2500
    ))
$$;

CREATE TABLE holdfast_graph_nodes (
    tenant_id text COLLATE "C" NOT NULL,
    scope text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    -- What jsonb refuses, NUL and lone surrogates, is escaped by the program.
    attributes jsonb NOT NULL,
    words jsonb NOT NULL,
    search tsvector GENERATED ALWAYS AS (holdfast_graph_words(words)) STORED,
    version bigint NOT NULL,
    created_by text COLLATE "C",
    updated_by text COLLATE "C",
    approved_by text COLLATE "C",
    approval_reason text,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, scope, id)
);

CREATE INDEX holdfast_graph_nodes_type ON holdfast_graph_nodes (tenant_id, scope, type, updated_at, id);
CREATE INDEX holdfast_graph_nodes_time ON holdfast_graph_nodes (tenant_id, scope, updated_at, id);
CREATE INDEX holdfast_graph_nodes_search ON holdfast_graph_nodes USING gin (search);

CREATE TABLE holdfast_graph_edges (
    tenant_id text COLLATE "C" NOT NULL,
    scope text COLLATE "C" NOT NULL,
    source text COLLATE "C" NOT NULL,
    relationship text COLLATE "C" NOT NULL,
    target text COLLATE "C" NOT NULL,
    weight double precision NOT NULL,
    attributes jsonb NOT NULL,
    version bigint NOT NULL,
    created_by text COLLATE "C",
    updated_by text COLLATE "C",
    approved_by text COLLATE "C",
    approval_reason text,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, scope, source, relationship, target),
    FOREIGN KEY (tenant_id, scope, source) REFERENCES holdfast_graph_nodes (tenant_id, scope, id) ON DELETE CASCADE,
    FOREIGN KEY (tenant_id, scope, target) REFERENCES holdfast_graph_nodes (tenant_id, scope, id) ON DELETE CASCADE
);

CREATE INDEX holdfast_graph_edges_target ON holdfast_graph_edges (tenant_id, scope, target, relationship, source);

-- Every version of every node as it was written, and that it was deleted; of edges, only what needed an approval. A node has
-- '' for relationship and target, which no edge has. It outlives the node, so that versions go on where they ended.
CREATE TABLE holdfast_graph_history (
    tenant_id text COLLATE "C" NOT NULL,
    scope text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    relationship text COLLATE "C" NOT NULL,
    target text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    type text COLLATE "C",
    attributes jsonb NOT NULL,
    weight double precision,
    deleted boolean NOT NULL,
    created_by text COLLATE "C",
    updated_by text COLLATE "C",
    approved_by text COLLATE "C",
    approval_reason text,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, scope, id, relationship, target, version)
);

CREATE INDEX holdfast_graph_history_time ON holdfast_graph_history (tenant_id, scope, id, updated_at, version)
    WHERE relationship = '';
CREATE INDEX holdfast_graph_history_approvals
    ON holdfast_graph_history (tenant_id, scope, updated_at, id, relationship, target, version)
    WHERE approved_by IS NOT NULL;

-- down
DROP TABLE holdfast_graph_history;
DROP TABLE holdfast_graph_edges;
DROP TABLE holdfast_graph_nodes;
DROP FUNCTION holdfast_graph_words(jsonb);
