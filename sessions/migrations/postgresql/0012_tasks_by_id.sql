-- While the table is small, an index that holds the id after other columns looks as good to the planner as the primary key,
-- and the plan that a connection keeps goes on to look for one task among all of the tenant. These are for statements that
-- say so: what looks for an id doesn't name `created_at`. Of two that fit, the one that was made last is taken.
-- up
DROP INDEX holdfast_tasks_newest;
DROP INDEX holdfast_tasks_kind;
CREATE INDEX holdfast_tasks_newest ON holdfast_tasks (tenant_id, created_at DESC, id DESC)
    WHERE created_at > '-infinity';
CREATE INDEX holdfast_tasks_kind ON holdfast_tasks (tenant_id, kind, created_at DESC, id DESC)
    WHERE created_at > '-infinity';

-- down
DROP INDEX holdfast_tasks_newest;
DROP INDEX holdfast_tasks_kind;
CREATE INDEX holdfast_tasks_kind ON holdfast_tasks (tenant_id, kind, created_at DESC, id DESC);
CREATE INDEX holdfast_tasks_newest ON holdfast_tasks (tenant_id, created_at DESC, id DESC);
