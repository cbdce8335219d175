-- up
-- Before a table has statistics, so in its first minute, an index that begins with the tenant looks as good to the planner
-- as the primary key, and one row was looked for among all of the tenant. These begin with the user instead; with the id
-- at their end they page a user's rows without a sort.
DROP INDEX holdfast_sessions_user;
CREATE INDEX holdfast_sessions_user ON holdfast_sessions (user_id, tenant_id, id);
DROP INDEX holdfast_threads_user;
CREATE INDEX holdfast_threads_user ON holdfast_threads (user_id, tenant_id, id);

-- down
DROP INDEX holdfast_threads_user;
CREATE INDEX holdfast_threads_user ON holdfast_threads (tenant_id, user_id);
DROP INDEX holdfast_sessions_user;
CREATE INDEX holdfast_sessions_user ON holdfast_sessions (tenant_id, user_id);
