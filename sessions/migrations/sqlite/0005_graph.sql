-- up
-- As on PostgreSQL; what its statements do at once, triggers do here.
CREATE TABLE holdfast_graph_nodes (
    tenant_id TEXT NOT NULL,
    scope TEXT NOT NULL,
    id TEXT NOT NULL,
    type TEXT NOT NULL,
    attributes TEXT NOT NULL,
    words TEXT NOT NULL,
    version INTEGER NOT NULL,
    created_by TEXT,
    updated_by TEXT,
    approved_by TEXT,
    approval_reason TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, scope, id)
);

CREATE INDEX holdfast_graph_nodes_type ON holdfast_graph_nodes (tenant_id, scope, type, updated_at, id);
CREATE INDEX holdfast_graph_nodes_time ON holdfast_graph_nodes (tenant_id, scope, updated_at, id);

CREATE TABLE holdfast_graph_edges (
    tenant_id TEXT NOT NULL,
    scope TEXT NOT NULL,
    source TEXT NOT NULL,
    relationship TEXT NOT NULL,
    target TEXT NOT NULL,
    weight REAL NOT NULL,
    attributes TEXT NOT NULL,
    version INTEGER NOT NULL,
    created_by TEXT,
    updated_by TEXT,
    approved_by TEXT,
    approval_reason TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, scope, source, relationship, target),
    FOREIGN KEY (tenant_id, scope, source) REFERENCES holdfast_graph_nodes (tenant_id, scope, id) ON DELETE CASCADE,
    FOREIGN KEY (tenant_id, scope, target) REFERENCES holdfast_graph_nodes (tenant_id, scope, id) ON DELETE CASCADE
);

CREATE INDEX holdfast_graph_edges_target ON holdfast_graph_edges (tenant_id, scope, target, relationship, source);

CREATE TABLE holdfast_graph_history (
    tenant_id TEXT NOT NULL,
    scope TEXT NOT NULL,
    id TEXT NOT NULL,
    relationship TEXT NOT NULL,
    target TEXT NOT NULL,
    version INTEGER NOT NULL,
    type TEXT,
    attributes TEXT NOT NULL,
    weight REAL,
    deleted INTEGER NOT NULL,
    created_by TEXT,
    updated_by TEXT,
    approved_by TEXT,
    approval_reason TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, scope, id, relationship, target, version)
);

CREATE INDEX holdfast_graph_history_time ON holdfast_graph_history (tenant_id, scope, id, updated_at, version)
    WHERE relationship = '';
CREATE INDEX holdfast_graph_history_approvals
    ON holdfast_graph_history (tenant_id, scope, updated_at, id, relationship, target, version)
    WHERE approved_by IS NOT NULL;

CREATE TABLE holdfast_graph_words (
    tenant_id TEXT NOT NULL,
    scope TEXT NOT NULL,
    word TEXT NOT NULL,
    id TEXT NOT NULL,
    PRIMARY KEY (tenant_id, scope, word, id),
    FOREIGN KEY (tenant_id, scope, id) REFERENCES holdfast_graph_nodes (tenant_id, scope, id) ON DELETE CASCADE
) WITHOUT ROWID;

CREATE INDEX holdfast_graph_words_node ON holdfast_graph_words (tenant_id, scope, id);

CREATE TRIGGER holdfast_graph_nodes_added AFTER INSERT ON holdfast_graph_nodes BEGIN
    INSERT INTO holdfast_graph_history (tenant_id, scope, id, relationship, target, version, type, attributes, deleted,
        created_by, updated_by, approved_by, approval_reason, created_at, updated_at)
    VALUES (NEW.tenant_id, NEW.scope, NEW.id, '', '', NEW.version, NEW.type, NEW.attributes, 0,
        NEW.created_by, NEW.updated_by, NEW.approved_by, NEW.approval_reason, NEW.created_at, NEW.updated_at);
    INSERT OR IGNORE INTO holdfast_graph_words (tenant_id, scope, word, id)
    SELECT NEW.tenant_id, NEW.scope, found.word, NEW.id FROM (
        SELECT DISTINCT w.value AS word FROM json_each(NEW.words) AS a, json_each(a.value) AS w ORDER BY 1 LIMIT 2500
    ) AS found;
END;

CREATE TRIGGER holdfast_graph_nodes_changed AFTER UPDATE OF version ON holdfast_graph_nodes BEGIN
    INSERT INTO holdfast_graph_history (tenant_id, scope, id, relationship, target, version, type, attributes, deleted,
        created_by, updated_by, approved_by, approval_reason, created_at, updated_at)
    VALUES (NEW.tenant_id, NEW.scope, NEW.id, '', '', NEW.version, NEW.type, NEW.attributes, 0,
        NEW.created_by, NEW.updated_by, NEW.approved_by, NEW.approval_reason, NEW.created_at, NEW.updated_at);
END;

CREATE TRIGGER holdfast_graph_nodes_reworded AFTER UPDATE OF words ON holdfast_graph_nodes
WHEN NEW.words <> OLD.words BEGIN
    DELETE FROM holdfast_graph_words WHERE tenant_id = NEW.tenant_id AND scope = NEW.scope AND id = NEW.id;
    INSERT OR IGNORE INTO holdfast_graph_words (tenant_id, scope, word, id)
    SELECT NEW.tenant_id, NEW.scope, found.word, NEW.id FROM (
        SELECT DISTINCT w.value AS word FROM json_each(NEW.words) AS a, json_each(a.value) AS w ORDER BY 1 LIMIT 2500
    ) AS found;
END;

CREATE TRIGGER holdfast_graph_edges_added AFTER INSERT ON holdfast_graph_edges WHEN NEW.approved_by IS NOT NULL BEGIN
    INSERT INTO holdfast_graph_history (tenant_id, scope, id, relationship, target, version, attributes, weight, deleted,
        created_by, updated_by, approved_by, approval_reason, created_at, updated_at)
    VALUES (NEW.tenant_id, NEW.scope, NEW.source, NEW.relationship, NEW.target, NEW.version, NEW.attributes, NEW.weight, 0,
        NEW.created_by, NEW.updated_by, NEW.approved_by, NEW.approval_reason, NEW.created_at, NEW.updated_at);
END;

CREATE TRIGGER holdfast_graph_edges_changed AFTER UPDATE OF version ON holdfast_graph_edges
WHEN NEW.approved_by IS NOT NULL BEGIN
    INSERT INTO holdfast_graph_history (tenant_id, scope, id, relationship, target, version, attributes, weight, deleted,
        created_by, updated_by, approved_by, approval_reason, created_at, updated_at)
    VALUES (NEW.tenant_id, NEW.scope, NEW.source, NEW.relationship, NEW.target, NEW.version, NEW.attributes, NEW.weight, 0,
        NEW.created_by, NEW.updated_by, NEW.approved_by, NEW.approval_reason, NEW.created_at, NEW.updated_at);
END;

-- down
DROP TABLE holdfast_graph_words;
DROP TABLE holdfast_graph_history;
DROP TABLE holdfast_graph_edges;
DROP TABLE holdfast_graph_nodes;
