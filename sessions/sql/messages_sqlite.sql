-- Each statement takes :tenant, :user, the user that the store is bound to, or NULL, and :now, our clock in
-- microseconds. A thread of another user, and one whose session has expired, is not there for any statement. A trigger
-- moves the thread's counters as messages come, so that an append is one statement.

-- name: append_message
-- hot: the number and the version are the thread's next. A compaction is the append of a summary.
INSERT INTO holdfast_messages (
    tenant_id, thread_id, seq, version, created_at, role, content, metadata, input_tokens, output_tokens, cost_nanos,
    latency_micros, models, sources, question_seq, asked_by, summary_through, key,
    words
)
SELECT :tenant, t.id, t.last_seq + 1, t.message_version + 1, max(t.updated_at, :now), :role, :content, :metadata,
    :input_tokens, :output_tokens, :cost_nanos, :latency_micros, :models, :sources, :question_seq,
    CASE WHEN :question_seq IS NOT NULL THEN t.user_id END, :through, :key, :words
FROM holdfast_threads AS t
WHERE t.tenant_id = :tenant AND t.id = :thread AND (:user IS NULL OR t.user_id = :user) AND NOT EXISTS (
        SELECT 1 FROM holdfast_sessions AS s
        WHERE s.tenant_id = t.tenant_id AND s.id = t.session_id AND s.expires_at <= :now
    )
    AND (:expected IS NULL OR t.message_version = :expected)
    AND (:through IS NULL OR :through BETWEEN t.window_seq AND t.last_seq)
    AND NOT EXISTS (
        SELECT 1 FROM holdfast_messages AS k WHERE k.tenant_id = :tenant AND k.thread_id = :thread AND k.key = :key
    )
RETURNING seq, version, created_at;

-- name: append_messages
-- hot: as append_message, for many: they travel as one JSON list, their contents as texts within it. An answer may name
-- its question by its place in the list. The cross join reads the thread first.
INSERT INTO holdfast_messages (
    tenant_id, thread_id, seq, version, created_at, role, content, metadata, input_tokens, output_tokens, cost_nanos,
    latency_micros, models, sources, question_seq, asked_by, key, words
)
SELECT :tenant, t.id, t.last_seq + (value ->> 'place'), t.message_version + 1, max(t.updated_at, :now),
    value ->> 'role', value ->> 'content', value ->> 'metadata', value ->> 'input_tokens',
    value ->> 'output_tokens', value ->> 'cost_nanos', value ->> 'latency_micros', value ->> 'models',
    value ->> 'sources', COALESCE(value ->> 'question_seq', t.last_seq + (value ->> 'question_place')),
    CASE WHEN COALESCE(value ->> 'question_seq', value ->> 'question_place') IS NOT NULL THEN t.user_id END,
    CASE value ->> 'place' WHEN 1 THEN :key END, value ->> 'words'
FROM holdfast_threads AS t CROSS JOIN json_each(:rows)
WHERE t.tenant_id = :tenant AND t.id = :thread AND (:user IS NULL OR t.user_id = :user) AND NOT EXISTS (
        SELECT 1 FROM holdfast_sessions AS s
        WHERE s.tenant_id = t.tenant_id AND s.id = t.session_id AND s.expires_at <= :now
    )
    AND (:expected IS NULL OR t.message_version = :expected)
    AND NOT EXISTS (
        SELECT 1 FROM holdfast_messages AS k WHERE k.tenant_id = :tenant AND k.thread_id = :thread AND k.key = :key
    )
RETURNING seq, version, created_at;

-- name: append_plain_messages
-- hot: as append_messages, for messages of which only roles and contents are told, as most are: SQLite looks through the
-- whole of a message's JSON for each field.
INSERT INTO holdfast_messages (tenant_id, thread_id, seq, version, created_at, role, content, key)
SELECT :tenant, t.id, t.last_seq + (value ->> 'place'), t.message_version + 1, max(t.updated_at, :now),
    value ->> 'role', value ->> 'content', CASE value ->> 'place' WHEN 1 THEN :key END
FROM holdfast_threads AS t CROSS JOIN json_each(:rows)
WHERE t.tenant_id = :tenant AND t.id = :thread AND (:user IS NULL OR t.user_id = :user) AND NOT EXISTS (
        SELECT 1 FROM holdfast_sessions AS s
        WHERE s.tenant_id = t.tenant_id AND s.id = t.session_id AND s.expires_at <= :now
    )
    AND (:expected IS NULL OR t.message_version = :expected)
    AND NOT EXISTS (
        SELECT 1 FROM holdfast_messages AS k WHERE k.tenant_id = :tenant AND k.thread_id = :thread AND k.key = :key
    )
RETURNING seq, version, created_at;

-- name: conversation
-- hot: one probe of each primary key; the message that has the key is looked for where one is given.
SELECT t.id, t.message_version, t.last_seq, t.window_seq, t.summary_seq, t.parent_id, t.parent_seq,
    k.seq AS key_seq, k.version AS key_version, k.created_at AS key_time
FROM holdfast_threads AS t
LEFT JOIN holdfast_messages AS k ON k.tenant_id = :tenant AND k.thread_id = :thread AND k.key = :key
WHERE t.tenant_id = :tenant AND t.id = :thread AND (:user IS NULL OR t.user_id = :user) AND NOT EXISTS (
        SELECT 1 FROM holdfast_sessions AS s
        WHERE s.tenant_id = t.tenant_id AND s.id = t.session_id AND s.expires_at <= :now
    );

-- name: last_message_seq
-- hot: the last message that is no summary.
SELECT m.seq FROM holdfast_messages AS m
WHERE m.tenant_id = :tenant AND m.thread_id = :thread AND m.summary_through IS NULL
ORDER BY m.seq DESC LIMIT 1;

-- name: cut_tail
-- hot: takes the tail away; summaries stay, but for those that cover what goes.
DELETE FROM holdfast_messages
WHERE tenant_id = :tenant AND thread_id = :thread AND seq >= :first
    AND (summary_through IS NULL OR summary_through >= :first)
RETURNING thread_id, seq, version, created_at, role, content, metadata, input_tokens, output_tokens, cost_nanos,
    latency_micros, models, sources, question_seq, summary_through;

-- name: move_window_back
-- hot: the newest summary that is left becomes the one in use, where the window covers what is gone.
UPDATE holdfast_threads AS t SET
    message_version = t.message_version + :step, updated_at = max(t.updated_at, :now),
    window_seq = CASE WHEN t.window_seq < :first THEN t.window_seq ELSE COALESCE((
        SELECT s.summary_through FROM holdfast_messages AS s
        WHERE s.tenant_id = :tenant AND s.thread_id = :thread AND s.summary_through < :first
        ORDER BY s.summary_through DESC, s.seq DESC LIMIT 1
    ), 0) END,
    summary_seq = CASE WHEN t.window_seq < :first THEN t.summary_seq ELSE (
        SELECT s.seq FROM holdfast_messages AS s
        WHERE s.tenant_id = :tenant AND s.thread_id = :thread AND s.summary_through < :first
        ORDER BY s.summary_through DESC, s.seq DESC LIMIT 1
    ) END
WHERE t.tenant_id = :tenant AND t.id = :thread;

-- name: list_messages_before
-- hot: walks the primary key backwards; the thread is looked at once.
SELECT m.thread_id, m.seq, m.version, m.created_at, m.role, m.content, m.metadata, m.input_tokens, m.output_tokens,
    m.cost_nanos, m.latency_micros, m.models, m.sources, m.question_seq, m.summary_through
FROM holdfast_messages AS m
WHERE m.tenant_id = :tenant AND m.thread_id = :thread AND m.seq < :before AND EXISTS (
    SELECT 1 FROM holdfast_threads AS t
    WHERE t.tenant_id = :tenant AND t.id = :thread AND (:user IS NULL OR t.user_id = :user) AND NOT EXISTS (
        SELECT 1 FROM holdfast_sessions AS s
        WHERE s.tenant_id = t.tenant_id AND s.id = t.session_id AND s.expires_at <= :now
    )
)
ORDER BY m.seq DESC LIMIT :limit;

-- name: list_contents
-- hot: as list_messages_before, for those who want no more than what was said.
SELECT m.seq, m.content FROM holdfast_messages AS m
WHERE m.tenant_id = :tenant AND m.thread_id = :thread AND m.seq < :before AND EXISTS (
    SELECT 1 FROM holdfast_threads AS t
    WHERE t.tenant_id = :tenant AND t.id = :thread AND (:user IS NULL OR t.user_id = :user)
        AND (t.session_id IS NULL OR NOT EXISTS (
            SELECT 1 FROM holdfast_sessions AS s
            WHERE s.tenant_id = t.tenant_id AND s.id = t.session_id AND s.expires_at <= :now
        ))
)
ORDER BY m.seq DESC LIMIT :limit;

-- name: list_messages_after
-- hot: walks the primary key; the thread is looked at once.
SELECT m.thread_id, m.seq, m.version, m.created_at, m.role, m.content, m.metadata, m.input_tokens, m.output_tokens,
    m.cost_nanos, m.latency_micros, m.models, m.sources, m.question_seq, m.summary_through
FROM holdfast_messages AS m
WHERE m.tenant_id = :tenant AND m.thread_id = :thread AND m.seq > :after AND EXISTS (
    SELECT 1 FROM holdfast_threads AS t
    WHERE t.tenant_id = :tenant AND t.id = :thread AND (:user IS NULL OR t.user_id = :user) AND NOT EXISTS (
        SELECT 1 FROM holdfast_sessions AS s
        WHERE s.tenant_id = t.tenant_id AND s.id = t.session_id AND s.expires_at <= :now
    )
)
ORDER BY m.seq LIMIT :limit;

-- name: list_context
-- hot: the newest messages of the window, other summaries left out, and the summary, which comes last here.
SELECT * FROM (
    SELECT m.thread_id, m.seq, m.version, m.created_at, m.role, m.content, m.metadata, m.input_tokens, m.output_tokens,
        m.cost_nanos, m.latency_micros, m.models, m.sources, m.question_seq, m.summary_through
    FROM holdfast_messages AS m
    WHERE m.tenant_id = :tenant AND m.thread_id = :thread AND m.summary_through IS NULL AND m.seq > (
        SELECT t.window_seq FROM holdfast_threads AS t
        WHERE t.tenant_id = :tenant AND t.id = :thread AND (:user IS NULL OR t.user_id = :user) AND NOT EXISTS (
                SELECT 1 FROM holdfast_sessions AS s
                WHERE s.tenant_id = t.tenant_id AND s.id = t.session_id AND s.expires_at <= :now
            )
    )
    ORDER BY m.seq DESC LIMIT :limit
)
UNION ALL
SELECT m.thread_id, m.seq, m.version, m.created_at, m.role, m.content, m.metadata, m.input_tokens, m.output_tokens,
    m.cost_nanos, m.latency_micros, m.models, m.sources, m.question_seq, m.summary_through
FROM holdfast_messages AS m
WHERE m.tenant_id = :tenant AND m.thread_id = :thread AND m.seq = (
    SELECT t.summary_seq FROM holdfast_threads AS t
    WHERE t.tenant_id = :tenant AND t.id = :thread AND (:user IS NULL OR t.user_id = :user) AND NOT EXISTS (
        SELECT 1 FROM holdfast_sessions AS s
        WHERE s.tenant_id = t.tenant_id AND s.id = t.session_id AND s.expires_at <= :now
    )
);

-- name: fork_thread
-- hot: the new thread; its counters follow as the messages are copied.
INSERT INTO holdfast_threads (
    tenant_id, id, session_id, user_id, title, metadata, version, created_at, updated_at,
    last_seq, message_version, parent_id, parent_seq
)
SELECT :tenant, :id, t.session_id, t.user_id, COALESCE(:title, t.title), t.metadata, 1, :now, :now,
    min(t.last_seq, :at), t.message_version, t.id, min(t.last_seq, :at)
FROM holdfast_threads AS t
WHERE t.tenant_id = :tenant AND t.id = :thread AND (:user IS NULL OR t.user_id = :user) AND NOT EXISTS (
        SELECT 1 FROM holdfast_sessions AS s
        WHERE s.tenant_id = t.tenant_id AND s.id = t.session_id AND s.expires_at <= :now
    )
ON CONFLICT (tenant_id, id) DO NOTHING
RETURNING id, session_id, user_id, title, metadata, version, created_at, updated_at;

-- name: copy_messages
-- hot: the copies keep their numbers, but no key: a retry belongs to the thread that it was sent to. In order, so that
-- the newest summary is the one in use.
INSERT INTO holdfast_messages (
    tenant_id, thread_id, seq, version, created_at, role, content, metadata, input_tokens, output_tokens, cost_nanos,
    latency_micros, models, sources, question_seq, asked_by, summary_through, words
)
SELECT m.tenant_id, :id, m.seq, m.version, m.created_at, m.role, m.content, m.metadata, m.input_tokens,
    m.output_tokens, m.cost_nanos, m.latency_micros, m.models, m.sources, m.question_seq, m.asked_by,
    m.summary_through, m.words
FROM holdfast_messages AS m
WHERE m.tenant_id = :tenant AND m.thread_id = :thread AND m.seq <= :at
ORDER BY m.seq;

-- name: search_messages
-- The messages that have every word; the first word is looked up, in the order of the words' primary key.
SELECT m.thread_id, m.seq, m.version, m.created_at, m.role, m.content, m.metadata, m.input_tokens, m.output_tokens,
    m.cost_nanos, m.latency_micros, m.models, m.sources, m.question_seq, m.summary_through
FROM (
    SELECT w.thread_id, w.seq FROM holdfast_message_words AS w
    WHERE w.tenant_id = :tenant AND w.word IN (SELECT value FROM json_each(:query))
        AND (:thread IS NULL OR w.thread_id = :thread)
    GROUP BY w.thread_id, w.seq HAVING count(*) = json_array_length(:query)
) AS found
JOIN holdfast_messages AS m ON m.tenant_id = :tenant AND m.thread_id = found.thread_id AND m.seq = found.seq
JOIN holdfast_threads AS t ON t.tenant_id = m.tenant_id AND t.id = m.thread_id
WHERE (:session IS NULL OR t.session_id = :session)
    AND (:user IS NULL OR t.user_id = :user)
    AND (:role IS NULL OR m.role = :role)
    AND (:after_time IS NULL OR (m.created_at, m.thread_id, m.seq) < (:after_time, :after_thread, :after_seq))
    AND NOT EXISTS (
        SELECT 1 FROM holdfast_sessions AS s
        WHERE s.tenant_id = t.tenant_id AND s.id = t.session_id AND s.expires_at <= :now
    )
ORDER BY m.created_at DESC, m.thread_id DESC, m.seq DESC LIMIT :limit;

-- name: find_unindexed_messages
-- What was written by a store that doesn't index, in the order of the primary key.
SELECT m.thread_id, m.seq, m.content FROM holdfast_messages AS m
WHERE m.tenant_id = :tenant AND m.words IS NULL AND (m.thread_id, m.seq) > (:after_thread, :after_seq)
ORDER BY m.thread_id, m.seq LIMIT :limit;

-- name: index_message
-- hot: gives a message its words; a trigger makes their rows.
UPDATE holdfast_messages SET words = :words WHERE tenant_id = :tenant AND thread_id = :thread AND seq = :seq;

-- name: list_queries
-- Walks the answers of the tenant from the newest. Those that a fork copied are left out. An answer is of who asked,
-- whoever has the thread now.
SELECT m.thread_id, m.seq, m.version, m.created_at, m.role, m.content, m.metadata, m.input_tokens, m.output_tokens,
    m.cost_nanos, m.latency_micros, m.models, m.sources, m.question_seq, m.summary_through,
    m.asked_by, q.content AS question
FROM holdfast_messages AS m
JOIN holdfast_threads AS t ON t.tenant_id = m.tenant_id AND t.id = m.thread_id
LEFT JOIN holdfast_messages AS q
    ON q.tenant_id = m.tenant_id AND q.thread_id = m.thread_id AND q.seq = m.question_seq
WHERE m.tenant_id = :tenant AND m.question_seq IS NOT NULL
    AND m.seq > COALESCE(t.parent_seq, 0)
    AND (:asked_by IS NULL OR m.asked_by = :asked_by)
    AND (:thread IS NULL OR m.thread_id = :thread)
    AND (:after_time IS NULL OR (m.created_at, m.thread_id, m.seq) < (:after_time, :after_thread, :after_seq))
    AND NOT EXISTS (
        SELECT 1 FROM holdfast_sessions AS s
        WHERE s.tenant_id = t.tenant_id AND s.id = t.session_id AND s.expires_at <= :now
    )
ORDER BY m.created_at DESC, m.thread_id DESC, m.seq DESC LIMIT :limit;

-- name: list_usage
-- Sums in the database. What a fork copied counts where it was written.
SELECT u.key, count(*) AS messages, sum(u.input_tokens) AS input_tokens, sum(u.output_tokens) AS output_tokens,
    sum(u.cost_nanos) AS cost_nanos, avg(u.latency_micros) AS latency_micros
FROM (
    SELECT CASE :by
            WHEN 'day' THEN date(m.created_at / 1000000, 'unixepoch')
            WHEN 'models' THEN m.models
            WHEN 'session' THEN t.session_id
            WHEN 'thread' THEN m.thread_id
            WHEN 'user' THEN t.user_id
        END AS key,
        m.input_tokens, m.output_tokens, m.cost_nanos, m.latency_micros
    FROM holdfast_messages AS m
    JOIN holdfast_threads AS t ON t.tenant_id = m.tenant_id AND t.id = m.thread_id
    WHERE m.tenant_id = :tenant AND m.seq > COALESCE(t.parent_seq, 0)
        AND (:thread IS NULL OR m.thread_id = :thread)
        AND (:session IS NULL OR t.session_id = :session)
        AND (:user IS NULL OR t.user_id = :user)
        AND (:since IS NULL OR m.created_at >= :since)
        AND (:until IS NULL OR m.created_at < :until)
        AND NOT EXISTS (
            SELECT 1 FROM holdfast_sessions AS s
            WHERE s.tenant_id = t.tenant_id AND s.id = t.session_id AND s.expires_at <= :now
        )
) AS u
WHERE :by IS NULL OR u.key IS NOT NULL AND (:after IS NULL OR u.key > :after)
GROUP BY u.key ORDER BY u.key LIMIT :limit;

-- name: prune_messages
-- hot: takes away what is older than :cut in one thread, at most :limit of the oldest, but never the summary in use.
DELETE FROM holdfast_messages
WHERE tenant_id = :tenant AND thread_id = :thread AND seq IN (
    SELECT m.seq FROM holdfast_messages AS m
    JOIN holdfast_threads AS t ON t.tenant_id = :tenant AND t.id = :thread
    WHERE m.tenant_id = :tenant AND m.thread_id = :thread AND m.seq <= :cut
        AND (:user IS NULL OR t.user_id = :user) AND m.seq IS NOT t.summary_seq
    ORDER BY m.seq LIMIT :limit
);

-- name: cut_by_count
-- hot: the newest message that isn't among the last :keep.
SELECT m.seq FROM holdfast_messages AS m
WHERE m.tenant_id = :tenant AND m.thread_id = :thread
ORDER BY m.seq DESC LIMIT 1 OFFSET :keep;

-- name: cut_by_age
-- hot: the newest message before :moment. Times grow with the numbers, so the walk from the newest end stops there.
SELECT m.seq FROM holdfast_messages AS m
WHERE m.tenant_id = :tenant AND m.thread_id = :thread AND m.created_at < :moment
ORDER BY m.seq DESC LIMIT 1;

-- name: cut_by_tokens
-- hot: the newest message with which the sum of tokens, from the newest on, passes :keep.
SELECT max(r.seq) FROM (
    SELECT m.seq, sum(COALESCE(m.input_tokens, 0) + COALESCE(m.output_tokens, 0)) OVER (ORDER BY m.seq DESC) AS tokens
    FROM holdfast_messages AS m
    WHERE m.tenant_id = :tenant AND m.thread_id = :thread
) AS r
WHERE r.tokens > :keep;

-- name: list_threads_to_prune
-- A page of the tenant's threads that ever had a message.
SELECT t.id FROM holdfast_threads AS t
WHERE t.tenant_id = :tenant AND t.id > :after AND t.last_seq > 0 AND (:user IS NULL OR t.user_id = :user)
ORDER BY t.id LIMIT :limit;

-- name: import_messages
-- Stores messages as they were exported, numbers and times included, in a thread that has no newer ones.
INSERT INTO holdfast_messages (
    tenant_id, thread_id, seq, version, created_at, role, content, metadata, input_tokens, output_tokens, cost_nanos,
    latency_micros, models, sources, question_seq, asked_by, summary_through, words
)
SELECT :tenant, t.id, value ->> 'seq', value ->> 'version', value ->> 'created_at',
    value ->> 'role', value ->> 'content', value ->> 'metadata', value ->> 'input_tokens',
    value ->> 'output_tokens', value ->> 'cost_nanos', value ->> 'latency_micros', value ->> 'models',
    value ->> 'sources', value ->> 'question_seq',
    CASE WHEN value ->> 'question_seq' IS NOT NULL THEN t.user_id END, value ->> 'summary_through', value ->> 'words'
FROM holdfast_threads AS t CROSS JOIN json_each(:rows)
WHERE t.tenant_id = :tenant AND t.id = :thread AND (:user IS NULL OR t.user_id = :user) AND NOT EXISTS (
        SELECT 1 FROM holdfast_sessions AS s
        WHERE s.tenant_id = t.tenant_id AND s.id = t.session_id AND s.expires_at <= :now
    )
    AND t.last_seq < (SELECT min(n.value ->> 'seq') FROM json_each(:rows) AS n)
ORDER BY value ->> 'seq';

-- name: last_contents
-- hot: the last message of each thread, one step backwards in the primary key for each.
SELECT m.thread_id, m.content
FROM json_each(:threads)
CROSS JOIN holdfast_messages AS m ON m.tenant_id = :tenant AND m.thread_id = json_each.value AND m.seq = (
    SELECT max(l.seq) FROM holdfast_messages AS l WHERE l.tenant_id = :tenant AND l.thread_id = json_each.value
);
