-- What one user, or one session, has: erased with counts, and exported. Expiry plays no part: what is stored counts.

-- name: lock_session_threads
-- hot: threads, then messages, and sessions last, in the order in which others lock them: a second append of a transaction
-- looks at the thread's session, too, for the foreign key. So nobody ends in a deadlock with an erasure, and what it counts
-- is what goes. The order of the ids keeps erasures apart; it is none of an index, which would be walked for it.
SELECT count(*) FROM (
    SELECT t.id FROM holdfast_threads AS t WHERE t.tenant_id = :tenant AND t.session_id = :id
    ORDER BY t.id || '' FOR UPDATE
) AS locked;

-- name: lock_user_threads
-- As lock_session_threads: the threads that go, and those with a question that the user asked.
SELECT l.id, l.user_id = :user OR EXISTS (
    SELECT 1 FROM holdfast_sessions AS s
    WHERE s.tenant_id = :tenant AND s.id = l.session_id AND s.user_id = :user
) AS goes
FROM holdfast_threads AS l
WHERE l.tenant_id = :tenant AND l.id IN (
    SELECT t.id FROM holdfast_threads AS t WHERE t.tenant_id = :tenant AND t.user_id = :user
    UNION
    SELECT t.id FROM holdfast_threads AS t
    JOIN holdfast_sessions AS s ON s.tenant_id = :tenant AND s.id = t.session_id
    WHERE t.tenant_id = :tenant AND s.user_id = :user
    UNION
    SELECT m.thread_id FROM holdfast_messages AS m WHERE m.tenant_id = :tenant AND m.asked_by = :user
)
ORDER BY l.id FOR UPDATE OF l;

-- name: erase_session_messages
-- hot: before the threads, because a cascade doesn't count. The array keeps it from a join that reads all messages.
DELETE FROM holdfast_messages
WHERE tenant_id = :tenant AND thread_id = ANY (ARRAY(
    SELECT t.id FROM holdfast_threads AS t WHERE t.tenant_id = :tenant AND t.session_id = :id
));

-- name: erase_session_threads
-- hot: by the index of sessions.
DELETE FROM holdfast_threads WHERE tenant_id = :tenant AND session_id = :id;

-- name: erase_session
-- hot: by the primary key.
DELETE FROM holdfast_sessions WHERE tenant_id = :tenant AND id = :id;

-- name: erase_user_messages
-- hot: of the threads that lock_user_threads gave: to delete what came since would be to wait against the order of locks.
DELETE FROM holdfast_messages WHERE tenant_id = :tenant AND thread_id = ANY (CAST(:threads AS text[]));

-- name: erase_user_questions
-- hot: in a thread that has become another user's, only the name of who asked goes.
UPDATE holdfast_messages SET asked_by = NULL
WHERE tenant_id = :tenant AND asked_by = :user AND thread_id = ANY (CAST(:others AS text[]));

-- name: erase_user_threads
-- hot: by the primary key.
DELETE FROM holdfast_threads WHERE tenant_id = :tenant AND id = ANY (CAST(:threads AS text[]));

-- name: erase_user_sessions
-- hot: by the index of users. Threads that came meanwhile go by the foreign key.
DELETE FROM holdfast_sessions WHERE tenant_id = :tenant AND user_id = :user;

-- name: name_user
-- Row-level security of the shared context hides a user's rows from who doesn't name the user; no one is named without it.
SELECT set_config('holdfast.tenant_id', :tenant, true), set_config('holdfast.user_id', CAST(:user AS text), true)
WHERE row_security_active('holdfast_items') OR row_security_active('holdfast_context_agents');

-- name: erase_user_items
-- hot: a user's items lie side by side in the primary key.
DELETE FROM holdfast_items WHERE tenant_id = :tenant AND user_id = :user;

-- name: erase_user_agents
-- hot: a user's agents lie side by side in the primary key.
DELETE FROM holdfast_context_agents WHERE tenant_id = :tenant AND user_id = :user;

-- name: export_user_sessions
-- In the order of the primary key, a page at a time.
SELECT id, user_id, title, metadata, version, sliding_micros, expires_at, created_at, updated_at
FROM holdfast_sessions
WHERE tenant_id = :tenant AND user_id = :user AND id > CAST(:after AS text)
ORDER BY id LIMIT :limit;

-- name: export_user_threads
-- In the order of the primary key, a page at a time.
SELECT id, session_id, user_id, title, metadata, version, created_at, updated_at
FROM holdfast_threads
WHERE tenant_id = :tenant AND user_id = :user AND id > CAST(:after AS text)
ORDER BY id LIMIT :limit;

-- name: export_thread_messages
-- hot: in the order of the primary key, a page at a time.
SELECT m.thread_id, m.seq, m.version, m.created_at, m.role, CAST(m.content AS text) AS content, m.metadata,
    m.input_tokens, m.output_tokens, m.cost_nanos, m.latency_micros, CAST(m.models AS text) AS models,
    CAST(m.sources AS text) AS sources, m.question_seq, m.summary_through
FROM holdfast_messages AS m
WHERE m.tenant_id = :tenant AND m.thread_id = :thread AND m.seq > :after
ORDER BY m.seq LIMIT :limit;

-- name: export_user_items
-- hot: in the order of the primary key, a page at a time.
SELECT namespace, key, CAST(value AS text) AS value, version, expires_at, created_at, updated_at
FROM holdfast_items
WHERE tenant_id = :tenant AND user_id = :user AND (namespace, key) > (CAST(:after_namespace AS text), CAST(:after_key AS text))
ORDER BY namespace, key LIMIT :limit;

-- name: export_user_agents
-- hot: in the order of the primary key, a page at a time.
SELECT agent, topics, permissions FROM holdfast_context_agents
WHERE tenant_id = :tenant AND user_id = :user AND agent > CAST(:after AS text)
ORDER BY agent LIMIT :limit;
