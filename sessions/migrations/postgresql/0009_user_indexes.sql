-- up
-- What is exported and erased with a user: the nodes, events and tasks that name one. The index has a hash of the name, for
-- an entry of bounded size whatever the name holds, and nothing of those that name nobody.
CREATE INDEX holdfast_graph_nodes_user ON holdfast_graph_nodes
    (tenant_id, scope, hashtextextended((attributes ->> 'user_id') COLLATE "C", 0), updated_at, id)
    WHERE (attributes -> 'user_id') IS NOT NULL;
CREATE INDEX holdfast_graph_history_user ON holdfast_graph_history
    (tenant_id, scope, hashtextextended((attributes ->> 'user_id') COLLATE "C", 0), id)
    WHERE relationship = '' AND target = '' AND (attributes -> 'user_id') IS NOT NULL;
CREATE INDEX holdfast_events_user ON holdfast_events
    (tenant_id, hashtextextended((tags ->> 'user_id') COLLATE "C", 0), at, id)
    WHERE (tags -> 'user_id') IS NOT NULL;
CREATE INDEX holdfast_tasks_user ON holdfast_tasks
    (tenant_id, hashtextextended((metadata ->> 'user_id') COLLATE "C", 0), created_at DESC, id DESC)
    WHERE (metadata -> 'user_id') IS NOT NULL;

-- down
DROP INDEX holdfast_tasks_user;
DROP INDEX holdfast_events_user;
DROP INDEX holdfast_graph_history_user;
DROP INDEX holdfast_graph_nodes_user;
