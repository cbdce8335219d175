-- up
-- The indexes of 9, which refused each change of a row whose JSON is damaged ("malformed JSON"), and with it its deletion:
-- such a row names nobody now. Statements say the same expression, or SQLite does not find the index.
DROP INDEX holdfast_tasks_user;
DROP INDEX holdfast_events_user;
DROP INDEX holdfast_graph_history_user;
DROP INDEX holdfast_graph_nodes_user;
CREATE INDEX holdfast_graph_nodes_user ON holdfast_graph_nodes
    (tenant_id, scope, CASE WHEN json_valid(attributes) THEN attributes ->> '$.user_id' END, updated_at, id)
    WHERE CASE WHEN json_valid(attributes) THEN attributes ->> '$.user_id' END IS NOT NULL;
CREATE INDEX holdfast_graph_history_user ON holdfast_graph_history
    (tenant_id, scope, CASE WHEN json_valid(attributes) THEN attributes ->> '$.user_id' END, id)
    WHERE relationship = '' AND target = ''
    AND CASE WHEN json_valid(attributes) THEN attributes ->> '$.user_id' END IS NOT NULL;
CREATE INDEX holdfast_events_user ON holdfast_events
    (tenant_id, CASE WHEN json_valid(tags) THEN tags ->> '$.user_id' END, at, id)
    WHERE CASE WHEN json_valid(tags) THEN tags ->> '$.user_id' END IS NOT NULL;
CREATE INDEX holdfast_tasks_user ON holdfast_tasks
    (tenant_id, CASE WHEN json_valid(metadata) THEN metadata ->> '$.user_id' END, created_at DESC, id DESC)
    WHERE CASE WHEN json_valid(metadata) THEN metadata ->> '$.user_id' END IS NOT NULL;

-- down
DROP INDEX holdfast_tasks_user;
DROP INDEX holdfast_events_user;
DROP INDEX holdfast_graph_history_user;
DROP INDEX holdfast_graph_nodes_user;
CREATE INDEX holdfast_graph_nodes_user ON holdfast_graph_nodes
    (tenant_id, scope, attributes ->> '$.user_id', updated_at, id)
    WHERE attributes ->> '$.user_id' IS NOT NULL;
CREATE INDEX holdfast_graph_history_user ON holdfast_graph_history
    (tenant_id, scope, attributes ->> '$.user_id', id)
    WHERE relationship = '' AND target = '' AND attributes ->> '$.user_id' IS NOT NULL;
CREATE INDEX holdfast_events_user ON holdfast_events (tenant_id, tags ->> '$.user_id', at, id)
    WHERE tags ->> '$.user_id' IS NOT NULL;
CREATE INDEX holdfast_tasks_user ON holdfast_tasks (tenant_id, metadata ->> '$.user_id', created_at DESC, id DESC)
    WHERE metadata ->> '$.user_id' IS NOT NULL;
