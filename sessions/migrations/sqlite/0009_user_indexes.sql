-- up
-- What is exported and erased with a user: the nodes, events and tasks that name one, and nothing of the others.
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

-- down
DROP INDEX holdfast_tasks_user;
DROP INDEX holdfast_events_user;
DROP INDEX holdfast_graph_history_user;
DROP INDEX holdfast_graph_nodes_user;
