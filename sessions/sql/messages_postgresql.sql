-- Each statement takes :tenant and :user, the user that the store is bound to, or NULL. A thread of another user, and
-- one whose session has expired, is not there for any statement. The thread's row is locked by each change before its
-- number is taken, so the order of the messages is the order of the commits. Whether a session has expired is asked by a
-- subquery of one value, as in postgresql.sql.

-- name: append_message
-- hot: the number, the version and the message in one statement. A compaction is the append of a summary.
WITH head AS (
    UPDATE holdfast_threads AS t SET
        last_seq = t.last_seq + 1, message_version = t.message_version + 1, last_key = CAST(:key AS text),
        window_seq = COALESCE(CAST(:through AS bigint), t.window_seq),
        summary_seq = CASE WHEN CAST(:through AS bigint) IS NULL THEN t.summary_seq ELSE t.last_seq + 1 END,
        updated_at = greatest(t.updated_at, clock_timestamp())
    WHERE t.tenant_id = :tenant AND t.id = :thread AND (CAST(:user AS text) IS NULL OR t.user_id = CAST(:user AS text))
        AND (CAST(:expected AS bigint) IS NULL OR t.message_version = CAST(:expected AS bigint))
        AND (CAST(:through AS bigint) IS NULL OR CAST(:through AS bigint) BETWEEN t.window_seq AND t.last_seq)
        AND (CAST(:key AS text) IS NULL OR t.last_key IS DISTINCT FROM CAST(:key AS text) AND NOT EXISTS (
            SELECT 1 FROM holdfast_messages AS k
            WHERE k.tenant_id = :tenant AND k.thread_id = :thread AND k.key = CAST(:key AS text)
        ))
        AND (
            SELECT s.expires_at <= statement_timestamp() FROM holdfast_sessions AS s
            WHERE s.tenant_id = t.tenant_id AND s.id = t.session_id
        ) IS NOT TRUE
    RETURNING t.last_seq, t.message_version, t.updated_at, t.user_id
)
INSERT INTO holdfast_messages (
    tenant_id, thread_id, seq, version, created_at, role, content, metadata, input_tokens, output_tokens, cost_nanos,
    latency_micros, models, sources, question_seq, asked_by, summary_through, key,
    words
)
SELECT :tenant, :thread, head.last_seq, head.message_version, head.updated_at, :role, CAST(:content AS json),
    CAST(:metadata AS jsonb), CAST(:input_tokens AS bigint), CAST(:output_tokens AS bigint),
    CAST(:cost_nanos AS bigint), CAST(:latency_micros AS bigint), CAST(:models AS json), CAST(:sources AS json),
    CAST(:question_seq AS bigint), CASE WHEN CAST(:question_seq AS bigint) IS NOT NULL THEN head.user_id END,
    CAST(:through AS bigint), CAST(:key AS text), CAST(:words AS tsvector)
FROM head
RETURNING seq, version, created_at;

-- name: append_plain
-- hot: as append_message, for the commonest one: without a key, an expected version or anything but role and content. It
-- costs the server a sixth less.
WITH head AS (
    UPDATE holdfast_threads AS t SET
        last_seq = t.last_seq + 1, message_version = t.message_version + 1, last_key = NULL,
        updated_at = greatest(t.updated_at, clock_timestamp())
    WHERE t.tenant_id = :tenant AND t.id = :thread AND (CAST(:user AS text) IS NULL OR t.user_id = CAST(:user AS text))
        AND (t.session_id IS NULL OR (
            SELECT s.expires_at <= statement_timestamp() FROM holdfast_sessions AS s
            WHERE s.tenant_id = :tenant AND s.id = t.session_id
        ) IS NOT TRUE)
    RETURNING t.last_seq, t.message_version, t.updated_at
)
INSERT INTO holdfast_messages (tenant_id, thread_id, seq, version, created_at, role, content)
SELECT :tenant, :thread, head.last_seq, head.message_version, head.updated_at, :role, CAST(:content AS json) FROM head
RETURNING seq, version, created_at;

-- name: append_with_items
-- hot: as append_message, and items beside it, in the order of their keys. Nothing is written where the key is there.
WITH head AS (
    UPDATE holdfast_threads AS t SET
        last_seq = t.last_seq + 1, message_version = t.message_version + 1, last_key = CAST(:key AS text),
        updated_at = greatest(t.updated_at, clock_timestamp())
    WHERE t.tenant_id = :tenant AND t.id = :thread AND (CAST(:user AS text) IS NULL OR t.user_id = CAST(:user AS text))
        AND t.last_key IS DISTINCT FROM CAST(:key AS text) AND NOT EXISTS (
            SELECT 1 FROM holdfast_messages AS k
            WHERE k.tenant_id = :tenant AND k.thread_id = :thread AND k.key = CAST(:key AS text)
        )
        AND (t.session_id IS NULL OR (
            SELECT s.expires_at <= statement_timestamp() FROM holdfast_sessions AS s
            WHERE s.tenant_id = :tenant AND s.id = t.session_id
        ) IS NOT TRUE)
    RETURNING t.last_seq, t.message_version, t.updated_at
), written AS (
    INSERT INTO holdfast_items AS i
        (tenant_id, user_id, namespace, key, value, fields, topics, subscribers, version, created_at, updated_at)
    SELECT :tenant, :owner, p.namespace, p.key, CAST(p.value AS json), CAST(p.fields AS jsonb), '{}', '{}', 1,
        statement_timestamp(), statement_timestamp()
    FROM head, unnest(CAST(:put_namespaces AS text[]), CAST(:put_keys AS text[]), CAST(:put_values AS text[]),
        CAST(:put_fields AS text[])) AS p (namespace, key, value, fields)
    ORDER BY p.namespace, p.key
    ON CONFLICT (tenant_id, user_id, namespace, key) DO UPDATE SET
        value = excluded.value, fields = excluded.fields, version = i.version + 1, ttl_micros = NULL, expires_at = NULL,
        updated_at = greatest(i.updated_at, excluded.updated_at)
)
INSERT INTO holdfast_messages (tenant_id, thread_id, seq, version, created_at, role, content, key)
SELECT :tenant, :thread, head.last_seq, head.message_version, head.updated_at, :role, CAST(:content AS json), :key
FROM head
RETURNING seq, version, created_at;

-- name: append_messages
-- hot: as append_message, for many: they travel as one JSON list, their contents as texts within it. An answer may name
-- its question by its place in the list.
WITH head AS (
    UPDATE holdfast_threads AS t SET
        last_seq = t.last_seq + CAST(:count AS bigint), message_version = t.message_version + 1,
        last_key = CAST(:key AS text), updated_at = greatest(t.updated_at, clock_timestamp())
    WHERE t.tenant_id = :tenant AND t.id = :thread AND (CAST(:user AS text) IS NULL OR t.user_id = CAST(:user AS text))
        AND (CAST(:expected AS bigint) IS NULL OR t.message_version = CAST(:expected AS bigint))
        AND (CAST(:key AS text) IS NULL OR t.last_key IS DISTINCT FROM CAST(:key AS text) AND NOT EXISTS (
            SELECT 1 FROM holdfast_messages AS k
            WHERE k.tenant_id = :tenant AND k.thread_id = :thread AND k.key = CAST(:key AS text)
        ))
        AND (
            SELECT s.expires_at <= statement_timestamp() FROM holdfast_sessions AS s
            WHERE s.tenant_id = t.tenant_id AND s.id = t.session_id
        ) IS NOT TRUE
    RETURNING t.last_seq - CAST(:count AS bigint) AS base, t.message_version, t.updated_at, t.user_id
)
INSERT INTO holdfast_messages (
    tenant_id, thread_id, seq, version, created_at, role, content, metadata, input_tokens, output_tokens, cost_nanos,
    latency_micros, models, sources, question_seq, asked_by, key, words
)
SELECT :tenant, :thread, head.base + r.place, head.message_version, head.updated_at, r.role, CAST(r.content AS json),
    CAST(r.metadata AS jsonb), r.input_tokens, r.output_tokens, r.cost_nanos, r.latency_micros, CAST(r.models AS json),
    CAST(r.sources AS json), COALESCE(r.question_seq, head.base + r.question_place),
    CASE WHEN COALESCE(r.question_seq, r.question_place) IS NOT NULL THEN head.user_id END,
    CASE r.place WHEN 1 THEN CAST(:key AS text) END, CAST(r.words AS tsvector)
FROM head, json_to_recordset(CAST(:rows AS json)) AS r (
    place bigint, role text, content text, metadata text, input_tokens bigint, output_tokens bigint, cost_nanos bigint,
    latency_micros bigint, models text, sources text, question_seq bigint, question_place bigint, words text
)
RETURNING seq, version, created_at;

-- name: replace_messages
-- hot: takes the tail away and appends. What this statement saw is what it replaces: where the version moved while it
-- waited for the row, nothing happens. Summaries stay, but for those that cover what goes; the window moves back then.
WITH head AS (
    UPDATE holdfast_threads AS t SET
        last_seq = t.last_seq + CAST(:count AS bigint), message_version = t.message_version + 1, last_key = NULL,
        window_seq = CASE WHEN t.window_seq < CAST(:first AS bigint) THEN t.window_seq ELSE COALESCE((
            SELECT s.summary_through FROM holdfast_messages AS s
            WHERE s.tenant_id = :tenant AND s.thread_id = :thread AND s.summary_through < CAST(:first AS bigint)
            ORDER BY s.summary_through DESC, s.seq DESC LIMIT 1
        ), 0) END,
        summary_seq = CASE WHEN t.window_seq < CAST(:first AS bigint) THEN t.summary_seq ELSE (
            SELECT s.seq FROM holdfast_messages AS s
            WHERE s.tenant_id = :tenant AND s.thread_id = :thread AND s.summary_through < CAST(:first AS bigint)
            ORDER BY s.summary_through DESC, s.seq DESC LIMIT 1
        ) END,
        updated_at = greatest(t.updated_at, clock_timestamp())
    WHERE t.tenant_id = :tenant AND t.id = :thread AND (CAST(:user AS text) IS NULL OR t.user_id = CAST(:user AS text))
        AND t.message_version = COALESCE(CAST(:expected AS bigint), (
            SELECT v.message_version FROM holdfast_threads AS v WHERE v.tenant_id = :tenant AND v.id = :thread
        ))
        AND (
            SELECT s.expires_at <= statement_timestamp() FROM holdfast_sessions AS s
            WHERE s.tenant_id = t.tenant_id AND s.id = t.session_id
        ) IS NOT TRUE
    RETURNING t.last_seq - CAST(:count AS bigint) AS base, t.message_version, t.updated_at, t.user_id
), gone AS (
    DELETE FROM holdfast_messages AS m USING head
    WHERE m.tenant_id = :tenant AND m.thread_id = :thread AND m.seq >= CAST(:first AS bigint)
        AND (m.summary_through IS NULL OR m.summary_through >= CAST(:first AS bigint))
), added AS (
    INSERT INTO holdfast_messages (
        tenant_id, thread_id, seq, version, created_at, role, content, metadata, input_tokens, output_tokens, cost_nanos,
        latency_micros, models, sources, question_seq, asked_by, words
    )
    SELECT :tenant, :thread, head.base + r.place, head.message_version, head.updated_at, r.role, CAST(r.content AS json),
        CAST(r.metadata AS jsonb), r.input_tokens, r.output_tokens, r.cost_nanos, r.latency_micros, CAST(r.models AS json),
        CAST(r.sources AS json), r.question_seq,
        CASE WHEN r.question_seq IS NOT NULL THEN head.user_id END, CAST(r.words AS tsvector)
    FROM head, json_to_recordset(CAST(:rows AS json)) AS r (
        place bigint, role text, content text, metadata text, input_tokens bigint, output_tokens bigint, cost_nanos bigint,
        latency_micros bigint, models text, sources text, question_seq bigint, words text
    )
)
SELECT base + 1 AS seq, message_version AS version, updated_at AS created_at FROM head;

-- name: pop_message
-- hot: as replace_messages, for the last message that is no summary.
WITH last AS (
    SELECT m.seq FROM holdfast_messages AS m
    WHERE m.tenant_id = :tenant AND m.thread_id = :thread AND m.summary_through IS NULL
    ORDER BY m.seq DESC LIMIT 1
), head AS (
    UPDATE holdfast_threads AS t SET
        message_version = t.message_version + 1, last_key = NULL,
        window_seq = CASE WHEN t.window_seq < last.seq THEN t.window_seq ELSE COALESCE((
            SELECT s.summary_through FROM holdfast_messages AS s
            WHERE s.tenant_id = :tenant AND s.thread_id = :thread AND s.summary_through < last.seq
            ORDER BY s.summary_through DESC, s.seq DESC LIMIT 1
        ), 0) END,
        summary_seq = CASE WHEN t.window_seq < last.seq THEN t.summary_seq ELSE (
            SELECT s.seq FROM holdfast_messages AS s
            WHERE s.tenant_id = :tenant AND s.thread_id = :thread AND s.summary_through < last.seq
            ORDER BY s.summary_through DESC, s.seq DESC LIMIT 1
        ) END,
        updated_at = greatest(t.updated_at, clock_timestamp())
    FROM last
    WHERE t.tenant_id = :tenant AND t.id = :thread AND (CAST(:user AS text) IS NULL OR t.user_id = CAST(:user AS text))
        AND t.message_version = COALESCE(CAST(:expected AS bigint), (
            SELECT v.message_version FROM holdfast_threads AS v WHERE v.tenant_id = :tenant AND v.id = :thread
        ))
        AND (
            SELECT s.expires_at <= statement_timestamp() FROM holdfast_sessions AS s
            WHERE s.tenant_id = t.tenant_id AND s.id = t.session_id
        ) IS NOT TRUE
    RETURNING last.seq
), covered AS (
    DELETE FROM holdfast_messages AS m USING head
    WHERE m.tenant_id = :tenant AND m.thread_id = :thread AND m.summary_through >= head.seq
)
DELETE FROM holdfast_messages AS m USING head
WHERE m.tenant_id = :tenant AND m.thread_id = :thread AND m.seq = head.seq
RETURNING m.thread_id, m.seq, m.version, m.created_at, m.role, CAST(m.content AS text) AS content, m.metadata,
    m.input_tokens, m.output_tokens, m.cost_nanos, m.latency_micros, CAST(m.models AS text) AS models,
    CAST(m.sources AS text) AS sources, m.question_seq, m.summary_through;

-- name: last_message_seq
-- hot: the last message that is no summary.
SELECT m.seq FROM holdfast_messages AS m
WHERE m.tenant_id = :tenant AND m.thread_id = :thread AND m.summary_through IS NULL
ORDER BY m.seq DESC LIMIT 1;

-- name: conversation
-- hot: one probe of each primary key; the message that has the key is looked for where one is given.
SELECT t.id, t.message_version, t.last_seq, t.window_seq, t.summary_seq, t.parent_id, t.parent_seq,
    k.seq AS key_seq, k.version AS key_version, k.created_at AS key_time
FROM holdfast_threads AS t
LEFT JOIN holdfast_messages AS k
    ON k.tenant_id = :tenant AND k.thread_id = :thread AND k.key = CAST(:key AS text) AND k.key IS NOT NULL
WHERE t.tenant_id = :tenant AND t.id = :thread AND (CAST(:user AS text) IS NULL OR t.user_id = CAST(:user AS text))
    AND (
        SELECT s.expires_at <= statement_timestamp() FROM holdfast_sessions AS s
        WHERE s.tenant_id = t.tenant_id AND s.id = t.session_id
    ) IS NOT TRUE;

-- name: forget_last_key
-- hot: of a message that was pruned since; the key may be given anew.
UPDATE holdfast_threads AS t SET last_key = NULL
WHERE t.tenant_id = :tenant AND t.id = :thread AND t.last_key = CAST(:key AS text) AND NOT EXISTS (
    SELECT 1 FROM holdfast_messages AS k
    WHERE k.tenant_id = :tenant AND k.thread_id = :thread AND k.key = CAST(:key AS text)
);

-- name: list_messages_before
-- hot: walks the primary key backwards; the thread is looked at once.
SELECT m.thread_id, m.seq, m.version, m.created_at, m.role, CAST(m.content AS text) AS content, m.metadata,
    m.input_tokens, m.output_tokens, m.cost_nanos, m.latency_micros, CAST(m.models AS text) AS models,
    CAST(m.sources AS text) AS sources, m.question_seq, m.summary_through
FROM holdfast_messages AS m
WHERE m.tenant_id = :tenant AND m.thread_id = :thread AND m.seq < :before AND EXISTS (
    SELECT 1 FROM holdfast_threads AS t
    WHERE t.tenant_id = :tenant AND t.id = :thread AND (CAST(:user AS text) IS NULL OR t.user_id = CAST(:user AS text))
        AND (
            SELECT s.expires_at <= statement_timestamp() FROM holdfast_sessions AS s
            WHERE s.tenant_id = t.tenant_id AND s.id = t.session_id
        ) IS NOT TRUE
)
ORDER BY m.seq DESC LIMIT :limit;

-- name: list_contents
-- hot: as list_messages_before, for those who want no more than what was said.
SELECT m.seq, CAST(m.content AS text) AS content FROM holdfast_messages AS m
WHERE m.tenant_id = :tenant AND m.thread_id = :thread AND m.seq < :before AND EXISTS (
    SELECT 1 FROM holdfast_threads AS t
    WHERE t.tenant_id = :tenant AND t.id = :thread AND (CAST(:user AS text) IS NULL OR t.user_id = CAST(:user AS text))
        AND (t.session_id IS NULL OR (
            SELECT s.expires_at <= statement_timestamp() FROM holdfast_sessions AS s
            WHERE s.tenant_id = :tenant AND s.id = t.session_id
        ) IS NOT TRUE)
)
ORDER BY m.seq DESC LIMIT :limit;

-- name: list_messages_after
-- hot: walks the primary key; the thread is looked at once.
SELECT m.thread_id, m.seq, m.version, m.created_at, m.role, CAST(m.content AS text) AS content, m.metadata,
    m.input_tokens, m.output_tokens, m.cost_nanos, m.latency_micros, CAST(m.models AS text) AS models,
    CAST(m.sources AS text) AS sources, m.question_seq, m.summary_through
FROM holdfast_messages AS m
WHERE m.tenant_id = :tenant AND m.thread_id = :thread AND m.seq > :after AND EXISTS (
    SELECT 1 FROM holdfast_threads AS t
    WHERE t.tenant_id = :tenant AND t.id = :thread AND (CAST(:user AS text) IS NULL OR t.user_id = CAST(:user AS text))
        AND (
            SELECT s.expires_at <= statement_timestamp() FROM holdfast_sessions AS s
            WHERE s.tenant_id = t.tenant_id AND s.id = t.session_id
        ) IS NOT TRUE
)
ORDER BY m.seq LIMIT :limit;

-- name: list_context
-- hot: the newest messages of the window, other summaries left out, and the summary, which comes last here.
WITH thread AS (
    SELECT t.window_seq, t.summary_seq FROM holdfast_threads AS t
    WHERE t.tenant_id = :tenant AND t.id = :thread AND (CAST(:user AS text) IS NULL OR t.user_id = CAST(:user AS text))
        AND (
            SELECT s.expires_at <= statement_timestamp() FROM holdfast_sessions AS s
            WHERE s.tenant_id = t.tenant_id AND s.id = t.session_id
        ) IS NOT TRUE
)
(
    SELECT m.thread_id, m.seq, m.version, m.created_at, m.role, CAST(m.content AS text) AS content, m.metadata,
    m.input_tokens, m.output_tokens, m.cost_nanos, m.latency_micros, CAST(m.models AS text) AS models,
    CAST(m.sources AS text) AS sources, m.question_seq, m.summary_through
    FROM holdfast_messages AS m
    WHERE m.tenant_id = :tenant AND m.thread_id = :thread AND m.seq > (SELECT window_seq FROM thread)
        AND m.summary_through IS NULL
    ORDER BY m.seq DESC LIMIT :limit
)
UNION ALL
SELECT m.thread_id, m.seq, m.version, m.created_at, m.role, CAST(m.content AS text) AS content, m.metadata,
    m.input_tokens, m.output_tokens, m.cost_nanos, m.latency_micros, CAST(m.models AS text) AS models,
    CAST(m.sources AS text) AS sources, m.question_seq, m.summary_through
FROM holdfast_messages AS m
WHERE m.tenant_id = :tenant AND m.thread_id = :thread AND m.seq = (SELECT summary_seq FROM thread);

-- name: fork_thread
-- hot: the thread and its messages in one statement, all of one snapshot. The copies keep their numbers, but no key: a
-- retry belongs to the thread that it was sent to.
WITH parent AS (
    SELECT t.* FROM holdfast_threads AS t
    WHERE t.tenant_id = :tenant AND t.id = :thread AND (CAST(:user AS text) IS NULL OR t.user_id = CAST(:user AS text))
        AND (
            SELECT s.expires_at <= statement_timestamp() FROM holdfast_sessions AS s
            WHERE s.tenant_id = t.tenant_id AND s.id = t.session_id
        ) IS NOT TRUE
), made AS (
    INSERT INTO holdfast_threads (
        tenant_id, id, session_id, user_id, title, metadata, version, created_at, updated_at,
        last_seq, message_version, window_seq, summary_seq, parent_id, parent_seq
    )
    SELECT :tenant, :id, p.session_id, p.user_id, COALESCE(CAST(:title AS text), p.title), p.metadata, 1,
        statement_timestamp(), statement_timestamp(), least(p.last_seq, CAST(:at AS bigint)), p.message_version,
        COALESCE(s.summary_through, 0), s.seq, p.id, least(p.last_seq, CAST(:at AS bigint))
    FROM parent AS p
    LEFT JOIN LATERAL (
        SELECT m.seq, m.summary_through FROM holdfast_messages AS m
        WHERE m.tenant_id = :tenant AND m.thread_id = :thread AND m.summary_through IS NOT NULL
            AND m.seq <= CAST(:at AS bigint)
        ORDER BY m.summary_through DESC, m.seq DESC LIMIT 1
    ) AS s ON true
    ON CONFLICT (tenant_id, id) DO NOTHING
    RETURNING id, session_id, user_id, title, metadata, version, created_at, updated_at
), copied AS (
    INSERT INTO holdfast_messages (
        tenant_id, thread_id, seq, version, created_at, role, content, metadata, input_tokens, output_tokens, cost_nanos,
    latency_micros, models, sources, question_seq, asked_by, summary_through, words
    )
    SELECT m.tenant_id, made.id, m.seq, m.version, m.created_at, m.role, m.content, m.metadata, m.input_tokens,
        m.output_tokens, m.cost_nanos, m.latency_micros, m.models, m.sources, m.question_seq, m.asked_by,
        m.summary_through, m.words
    FROM made, holdfast_messages AS m
    WHERE m.tenant_id = :tenant AND m.thread_id = :thread AND m.seq <= CAST(:at AS bigint)
)
SELECT id, session_id, user_id, title, metadata, version, created_at, updated_at FROM made;

-- name: search_messages
-- The words are looked up in the GIN index; it is planned for the filters that are given.
SELECT m.thread_id, m.seq, m.version, m.created_at, m.role, CAST(m.content AS text) AS content, m.metadata,
    m.input_tokens, m.output_tokens, m.cost_nanos, m.latency_micros, CAST(m.models AS text) AS models,
    CAST(m.sources AS text) AS sources, m.question_seq, m.summary_through
FROM holdfast_messages AS m
JOIN holdfast_threads AS t ON t.tenant_id = m.tenant_id AND t.id = m.thread_id
WHERE m.tenant_id = :tenant AND m.words IS NOT NULL AND m.words @@ CAST(:query AS tsquery)
    AND (CAST(:thread AS text) IS NULL OR m.thread_id = CAST(:thread AS text))
    AND (CAST(:session AS text) IS NULL OR t.session_id = CAST(:session AS text))
    AND (CAST(:user AS text) IS NULL OR t.user_id = CAST(:user AS text))
    AND (CAST(:role AS text) IS NULL OR m.role = CAST(:role AS text))
    AND (CAST(:after_time AS timestamptz) IS NULL OR (m.created_at, m.thread_id, m.seq)
        < (CAST(:after_time AS timestamptz), CAST(:after_thread AS text), CAST(:after_seq AS bigint)))
    AND (
        SELECT s.expires_at <= statement_timestamp() FROM holdfast_sessions AS s
        WHERE s.tenant_id = t.tenant_id AND s.id = t.session_id
    ) IS NOT TRUE
ORDER BY m.created_at DESC, m.thread_id DESC, m.seq DESC LIMIT :limit;

-- name: find_unindexed_messages
-- What was written by a store that doesn't index, in the order of the primary key.
SELECT m.thread_id, m.seq, CAST(m.content AS text) AS content FROM holdfast_messages AS m
WHERE m.tenant_id = :tenant AND m.words IS NULL
    AND (m.thread_id, m.seq) > (CAST(:after_thread AS text), CAST(:after_seq AS bigint))
ORDER BY m.thread_id, m.seq LIMIT :limit;

-- name: index_message
-- hot: gives a message its words.
UPDATE holdfast_messages SET words = CAST(:words AS tsvector)
WHERE tenant_id = :tenant AND thread_id = :thread AND seq = :seq;

-- name: list_queries
-- Walks the answers of the tenant, or to a user, from the newest; it is planned for the filters that are given. Those
-- that a fork copied are left out. An answer is of who asked, whoever has the thread now.
SELECT m.thread_id, m.seq, m.version, m.created_at, m.role, CAST(m.content AS text) AS content, m.metadata,
    m.input_tokens, m.output_tokens, m.cost_nanos, m.latency_micros, CAST(m.models AS text) AS models,
    CAST(m.sources AS text) AS sources, m.question_seq, m.summary_through,
    m.asked_by, CAST(q.content AS text) AS question
FROM holdfast_messages AS m
JOIN holdfast_threads AS t ON t.tenant_id = m.tenant_id AND t.id = m.thread_id
LEFT JOIN holdfast_messages AS q
    ON q.tenant_id = m.tenant_id AND q.thread_id = m.thread_id AND q.seq = m.question_seq
WHERE m.tenant_id = :tenant AND m.question_seq IS NOT NULL
    AND m.seq > COALESCE(t.parent_seq, 0)
    AND (CAST(:asked_by AS text) IS NULL OR m.asked_by = CAST(:asked_by AS text))
    AND (CAST(:thread AS text) IS NULL OR m.thread_id = CAST(:thread AS text))
    AND (CAST(:after_time AS timestamptz) IS NULL OR (m.created_at, m.thread_id, m.seq)
        < (CAST(:after_time AS timestamptz), CAST(:after_thread AS text), CAST(:after_seq AS bigint)))
    AND (
        SELECT s.expires_at <= statement_timestamp() FROM holdfast_sessions AS s
        WHERE s.tenant_id = t.tenant_id AND s.id = t.session_id
    ) IS NOT TRUE
ORDER BY m.created_at DESC, m.thread_id DESC, m.seq DESC LIMIT :limit;

-- name: list_usage
-- Sums in the database; it is planned for the filters that are given. What a fork copied counts where it was written.
SELECT u.key, count(*) AS messages, sum(u.input_tokens) AS input_tokens, sum(u.output_tokens) AS output_tokens,
    sum(u.cost_nanos) AS cost_nanos, avg(u.latency_micros) AS latency_micros
FROM (
    SELECT CASE CAST(:by AS text)
            WHEN 'day' THEN to_char(m.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD')
            WHEN 'models' THEN CAST(m.models AS text)
            WHEN 'session' THEN t.session_id
            WHEN 'thread' THEN m.thread_id
            WHEN 'user' THEN t.user_id
        END COLLATE "C" AS key,
        m.input_tokens, m.output_tokens, m.cost_nanos, m.latency_micros
    FROM holdfast_messages AS m
    JOIN holdfast_threads AS t ON t.tenant_id = m.tenant_id AND t.id = m.thread_id
    WHERE m.tenant_id = :tenant AND m.seq > COALESCE(t.parent_seq, 0)
        AND (CAST(:thread AS text) IS NULL OR m.thread_id = CAST(:thread AS text))
        AND (CAST(:session AS text) IS NULL OR t.session_id = CAST(:session AS text))
        AND (CAST(:user AS text) IS NULL OR t.user_id = CAST(:user AS text))
        AND (CAST(:since AS timestamptz) IS NULL OR m.created_at >= CAST(:since AS timestamptz))
        AND (CAST(:until AS timestamptz) IS NULL OR m.created_at < CAST(:until AS timestamptz))
        AND (
            SELECT s.expires_at <= statement_timestamp() FROM holdfast_sessions AS s
            WHERE s.tenant_id = t.tenant_id AND s.id = t.session_id
        ) IS NOT TRUE
) AS u
WHERE CAST(:by AS text) IS NULL OR u.key IS NOT NULL AND (CAST(:after AS text) IS NULL OR u.key > CAST(:after AS text))
GROUP BY u.key ORDER BY u.key LIMIT :limit;

-- name: prune_messages
-- hot: takes away what is older than :cut in one thread, at most :limit of the oldest, but never the summary in use.
WITH old AS (
    SELECT m.seq FROM holdfast_messages AS m
    JOIN holdfast_threads AS t ON t.tenant_id = :tenant AND t.id = :thread
    WHERE m.tenant_id = :tenant AND m.thread_id = :thread AND m.seq <= CAST(:cut AS bigint)
        AND (CAST(:user AS text) IS NULL OR t.user_id = CAST(:user AS text)) AND m.seq IS DISTINCT FROM t.summary_seq
    ORDER BY m.seq LIMIT :limit
)
DELETE FROM holdfast_messages AS m USING old
WHERE m.tenant_id = :tenant AND m.thread_id = :thread AND m.seq = old.seq;

-- name: cut_by_count
-- hot: the newest message that isn't among the last :keep.
SELECT m.seq FROM holdfast_messages AS m
WHERE m.tenant_id = :tenant AND m.thread_id = :thread
ORDER BY m.seq DESC OFFSET :keep LIMIT 1;

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
WHERE t.tenant_id = :tenant AND t.id > CAST(:after AS text) AND t.last_seq > 0
    AND (CAST(:user AS text) IS NULL OR t.user_id = CAST(:user AS text))
ORDER BY t.id LIMIT :limit;

-- name: import_messages
-- Stores messages as they were exported, numbers and times included, in a thread that has no newer ones.
WITH r AS (
    SELECT * FROM json_to_recordset(CAST(:rows AS json)) AS r (
        seq bigint, version bigint, created_at text, role text, content text, metadata text, input_tokens bigint,
        output_tokens bigint, cost_nanos bigint, latency_micros bigint, models text, sources text, question_seq bigint,
        summary_through bigint, words text
    )
), head AS (
    UPDATE holdfast_threads AS t SET
        last_seq = greatest(t.last_seq, (SELECT max(r.seq) FROM r)),
        message_version = greatest(t.message_version, (SELECT max(r.version) FROM r)),
        window_seq = COALESCE((SELECT max(r.summary_through) FROM r), t.window_seq),
        summary_seq = COALESCE((SELECT max(r.seq) FROM r WHERE r.summary_through IS NOT NULL), t.summary_seq),
        updated_at = greatest(t.updated_at, clock_timestamp())
    WHERE t.tenant_id = :tenant AND t.id = :thread AND (CAST(:user AS text) IS NULL OR t.user_id = CAST(:user AS text))
        AND t.last_seq < (SELECT min(r.seq) FROM r)
    RETURNING t.id, t.user_id
)
INSERT INTO holdfast_messages (
    tenant_id, thread_id, seq, version, created_at, role, content, metadata, input_tokens, output_tokens, cost_nanos,
    latency_micros, models, sources, question_seq, asked_by, summary_through, words
)
SELECT :tenant, head.id, r.seq, r.version, CAST(r.created_at AS timestamptz), r.role, CAST(r.content AS json),
    CAST(r.metadata AS jsonb), r.input_tokens, r.output_tokens, r.cost_nanos, r.latency_micros, CAST(r.models AS json),
    CAST(r.sources AS json), r.question_seq,
    CASE WHEN r.question_seq IS NOT NULL THEN head.user_id END, r.summary_through, CAST(r.words AS tsvector)
FROM head, r;

-- name: last_contents
-- hot: the last message of each thread, one step backwards in the primary key for each.
SELECT t.thread_id, l.content
FROM unnest(CAST(:threads AS text[])) AS t (thread_id)
CROSS JOIN LATERAL (
    SELECT CAST(m.content AS text) AS content
    FROM holdfast_messages AS m
    WHERE m.tenant_id = :tenant AND m.thread_id = t.thread_id
    ORDER BY m.seq DESC
    LIMIT 1
) AS l;
