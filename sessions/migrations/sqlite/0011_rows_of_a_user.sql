-- up
-- With the id at their end they page a user's rows without a sort.
DROP INDEX holdfast_sessions_user;
CREATE INDEX holdfast_sessions_user ON holdfast_sessions (tenant_id, user_id, id);
DROP INDEX holdfast_threads_user;
CREATE INDEX holdfast_threads_user ON holdfast_threads (tenant_id, user_id, id);

-- down
DROP INDEX holdfast_threads_user;
CREATE INDEX holdfast_threads_user ON holdfast_threads (tenant_id, user_id);
DROP INDEX holdfast_sessions_user;
CREATE INDEX holdfast_sessions_user ON holdfast_sessions (tenant_id, user_id);
