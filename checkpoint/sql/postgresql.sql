-- The statements of DatabaseCheckpointer on PostgreSQL. Who locks what is told in _async/sql.py.
-- Of the numbers in refs (checkpoint/refs.py) n > 0 is block 0 of n versions ago, and -n the rest of those that are not
-- 0: versions ago * 256 + ordinal. So greatest(n, -n >> 8) is versions ago, greatest(-n, 0) & 255 the ordinal.

-- name: save_next
-- The commonest save: the next version, whose new pieces lie in one block, and which the base knows beforehand. No
-- upsert: where the thread went meanwhile, nothing may be saved. A key that is there is a violation of its index.
-- hot
WITH head AS (
    UPDATE holdfast_checkpoint_threads AS t
    SET latest = t.counter + 1, counter = t.counter + 1, stamp = :stamp, updated_at = statement_timestamp(),
        expires_at = coalesce(statement_timestamp() + t.ttl, t.expires_at)
    WHERE t.tenant_id = :tenant AND t.thread_id = :thread AND t.namespace = :namespace AND t.stamp = :base
      AND (t.expires_at IS NULL OR t.expires_at > statement_timestamp())
    RETURNING t.counter
)
INSERT INTO holdfast_checkpoints (tenant_id, thread_id, namespace, version, parent_version, created_at, step, node,
                                  metadata, manifest, refs, data, key)
SELECT :tenant, :thread, :namespace, head.counter, :parent, CAST(:timestamp AS timestamptz), :step, :node,
       CAST(:metadata AS jsonb), CAST(:manifest AS bytea), :refs, CAST(:data AS bytea), :key
FROM head;

-- name: save_any
-- A save of any version, with any number of blocks, cut out of one byte string, which costs no escaping. :base and
-- :expected may be NULL.
-- hot
WITH head AS (
    UPDATE holdfast_checkpoint_threads AS t
    SET latest = greatest(t.latest, coalesce(CAST(:version AS bigint), t.counter + 1)),
        counter = greatest(t.counter, coalesce(CAST(:version AS bigint), t.counter + 1)),
        parent = CASE WHEN coalesce(CAST(:version AS bigint), t.counter + 1) > t.latest THEN nullif(t.latest, 0) END,
        stamp = :stamp, updated_at = statement_timestamp(),
        expires_at = coalesce(statement_timestamp() + t.ttl, t.expires_at)
    WHERE t.tenant_id = :tenant AND t.thread_id = :thread AND t.namespace = :namespace
      AND (CAST(:base AS bigint) IS NULL OR t.stamp = CAST(:base AS bigint))
      AND (CAST(:expected AS bigint) IS NULL OR t.latest = CAST(:expected AS bigint))
      AND (CAST(:version AS bigint) IS NULL OR CAST(:version AS bigint) > t.counter OR t.stamp = CAST(:base AS bigint))
      AND NOT EXISTS (SELECT FROM holdfast_checkpoints AS c WHERE c.tenant_id = :tenant AND c.thread_id = :thread
                      AND c.namespace = :namespace AND c.version = CAST(:version AS bigint))
      AND NOT EXISTS (SELECT FROM holdfast_checkpoint_blocks AS b WHERE b.tenant_id = :tenant
                      AND b.thread_id = :thread AND b.namespace = :namespace AND b.version = CAST(:version AS bigint))
      AND (t.expires_at IS NULL OR t.expires_at > statement_timestamp())
      AND (CAST(:key AS text) IS NULL OR NOT EXISTS (
          SELECT FROM holdfast_checkpoints AS c WHERE c.tenant_id = :tenant AND c.thread_id = :thread
          AND c.namespace = :namespace AND c.key = CAST(:key AS text)))
    RETURNING t.counter, t.parent
), block AS (
    INSERT INTO holdfast_checkpoint_blocks (tenant_id, thread_id, namespace, version, ordinal, data)
    SELECT :tenant, :thread, :namespace, coalesce(CAST(:version AS bigint), head.counter), b.ordinal,
           substring(CAST(:extra AS bytea) FROM b.start FOR b.size)
    FROM head, unnest(CAST(CAST(:starts AS text) AS integer[]), CAST(CAST(:sizes AS text) AS integer[]))
               WITH ORDINALITY AS b (start, size, ordinal)
)
INSERT INTO holdfast_checkpoints (tenant_id, thread_id, namespace, version, parent_version, created_at, step, node,
                                  metadata, manifest, refs, data, key)
SELECT :tenant, :thread, :namespace, coalesce(CAST(:version AS bigint), head.counter),
       coalesce(CAST(:parent AS bigint), head.parent), CAST(:timestamp AS timestamptz),
       :step, :node, CAST(:metadata AS jsonb), CAST(:manifest AS bytea), :refs, CAST(:data AS bytea), :key
FROM head
RETURNING version, parent_version, (SELECT head.counter FROM head) AS counter;

-- name: save_first
-- A save that sends every piece and makes the thread where it is missing; :expected is NULL or 0.
-- hot
WITH head AS (
    INSERT INTO holdfast_checkpoint_threads AS t (tenant_id, thread_id, namespace, latest, counter, parent, stamp,
                                                  created_at, updated_at, ttl, expires_at)
    SELECT :tenant, :thread, :namespace, coalesce(CAST(:version AS bigint), 1), coalesce(CAST(:version AS bigint), 1),
           NULL, :stamp, statement_timestamp(), statement_timestamp(), max(o.ttl), coalesce(statement_timestamp() + max(o.ttl), max(o.expires_at))
    FROM holdfast_checkpoint_threads AS o
    WHERE o.tenant_id = :tenant AND o.thread_id = :thread AND o.expires_at IS NOT NULL
    HAVING max(o.expires_at) IS NULL OR max(o.expires_at) > statement_timestamp()
    ON CONFLICT (tenant_id, thread_id, namespace) DO UPDATE
    SET latest = greatest(t.latest, coalesce(CAST(:version AS bigint), t.counter + 1)),
        counter = greatest(t.counter, coalesce(CAST(:version AS bigint), t.counter + 1)),
        parent = CASE WHEN coalesce(CAST(:version AS bigint), t.counter + 1) > t.latest THEN nullif(t.latest, 0) END,
        stamp = excluded.stamp, updated_at = excluded.updated_at,
        expires_at = coalesce(statement_timestamp() + t.ttl, t.expires_at)
    WHERE (CAST(:expected AS bigint) IS NULL OR t.latest = CAST(:expected AS bigint))
      AND (CAST(:version AS bigint) IS NULL OR CAST(:version AS bigint) > t.counter)
      AND (t.expires_at IS NULL OR t.expires_at > statement_timestamp())
      AND (CAST(:key AS text) IS NULL OR NOT EXISTS (
          SELECT FROM holdfast_checkpoints AS c WHERE c.tenant_id = :tenant AND c.thread_id = :thread
          AND c.namespace = :namespace AND c.key = CAST(:key AS text)))
    RETURNING t.counter, t.parent
), block AS (
    INSERT INTO holdfast_checkpoint_blocks (tenant_id, thread_id, namespace, version, ordinal, data)
    SELECT :tenant, :thread, :namespace, coalesce(CAST(:version AS bigint), head.counter), b.ordinal,
           substring(CAST(:extra AS bytea) FROM b.start FOR b.size)
    FROM head, unnest(CAST(CAST(:starts AS text) AS integer[]), CAST(CAST(:sizes AS text) AS integer[]))
               WITH ORDINALITY AS b (start, size, ordinal)
)
INSERT INTO holdfast_checkpoints (tenant_id, thread_id, namespace, version, parent_version, created_at, step, node,
                                  metadata, manifest, refs, data, key)
SELECT :tenant, :thread, :namespace, coalesce(CAST(:version AS bigint), head.counter),
       coalesce(CAST(:parent AS bigint), head.parent), CAST(:timestamp AS timestamptz),
       :step, :node, CAST(:metadata AS jsonb), CAST(:manifest AS bytea), :refs, CAST(:data AS bytea), :key
FROM head
RETURNING version, parent_version, (SELECT head.counter FROM head) AS counter;

-- name: find_head
-- What a sealed save has to know beforehand.
SELECT stamp, counter, latest
FROM holdfast_checkpoint_threads
WHERE tenant_id = :tenant AND thread_id = :thread AND namespace = :namespace
ORDER BY namespace
LIMIT 1;

-- name: inspect
-- Why a save changed nothing; asked only then.
SELECT coalesce(max(t.latest), 0) AS latest, max(t.stamp) AS stamp,
       EXISTS (SELECT FROM holdfast_checkpoints AS c WHERE c.tenant_id = :tenant AND c.thread_id = :thread
               AND c.namespace = :namespace AND c.version = CAST(:version AS bigint)) AS taken,
       EXISTS (SELECT FROM holdfast_checkpoints AS c WHERE c.tenant_id = :tenant AND c.thread_id = :thread
               AND c.namespace = :namespace AND c.key = CAST(:key AS text)) AS kept,
       EXISTS (SELECT FROM holdfast_checkpoint_blocks AS b WHERE b.tenant_id = :tenant AND b.thread_id = :thread
               AND b.namespace = :namespace AND b.version = CAST(:version AS bigint)) AS held,
       (SELECT e.expires_at <= statement_timestamp() FROM holdfast_checkpoint_expiry AS e
        WHERE e.tenant_id = :tenant AND e.thread_id = :thread) AS expired
FROM holdfast_checkpoint_threads AS t
WHERE t.tenant_id = :tenant AND t.thread_id = :thread AND t.namespace = :namespace;

-- name: load_latest
-- One row: the checkpoint, its blocks end to end, their sizes (-1: missing), and the thread's head for the next save.
-- Each block by a subquery of its own, which takes the primary key, while a join may read the whole thread. None is
-- read while the stamp is :base: who asks has them.
-- hot
WITH chosen AS (
    SELECT c.version, c.parent_version, c.created_at, c.step, c.node, c.key, c.metadata, c.manifest,
           CAST('{' || c.refs || '}' AS integer[]) AS refs, c.data AS beside
    FROM holdfast_checkpoints AS c
    WHERE c.tenant_id = :tenant AND c.thread_id = :thread AND c.namespace = :namespace
      AND NOT EXISTS (SELECT FROM holdfast_checkpoint_expiry AS e WHERE e.tenant_id = :tenant AND e.thread_id = :thread
                      AND e.expires_at <= statement_timestamp())
    ORDER BY c.version DESC
    LIMIT 1
)
SELECT chosen.version, chosen.parent_version, chosen.created_at, chosen.step, chosen.node, chosen.key, chosen.metadata,
       chosen.manifest, chosen.refs, t.stamp, t.counter, body.data, body.sizes
FROM chosen
LEFT JOIN holdfast_checkpoint_threads AS t ON t.tenant_id = :tenant AND t.thread_id = :thread
      AND t.namespace = :namespace AND t.latest = chosen.version,
LATERAL (
    SELECT string_agg(block.data, '' ORDER BY block.i) AS data,
           string_agg(CAST(coalesce(length(block.data), -1) AS text), ',' ORDER BY block.i) AS sizes
    FROM (
        SELECT r.i, CASE WHEN r.ref = 0 THEN chosen.beside ELSE coalesce(
            (SELECT c.data FROM holdfast_checkpoints AS c WHERE r.ref > 0 AND c.tenant_id = :tenant
             AND c.thread_id = :thread AND c.namespace = :namespace AND c.version = chosen.version - r.ref),
            (SELECT b.data FROM holdfast_checkpoint_blocks AS b WHERE b.tenant_id = :tenant AND b.thread_id = :thread
             AND b.namespace = :namespace AND b.version = chosen.version - greatest(r.ref, -r.ref >> 8)
             AND b.ordinal = greatest(-r.ref, 0) & 255)
        ) END AS data
        FROM unnest(CASE WHEN t.stamp = :base THEN NULL ELSE chosen.refs END) WITH ORDINALITY AS r (ref, i)
        OFFSET 0
    ) AS block
) AS body;

-- name: load_version
-- As load_latest, for a version that is named; apart, so that either has the plan of its own key.
-- hot
WITH chosen AS (
    SELECT c.version, c.parent_version, c.created_at, c.step, c.node, c.key, c.metadata, c.manifest,
           CAST('{' || c.refs || '}' AS integer[]) AS refs, c.data AS beside
    FROM holdfast_checkpoints AS c
    WHERE c.tenant_id = :tenant AND c.thread_id = :thread AND c.namespace = :namespace
      AND c.version = :version
      AND NOT EXISTS (SELECT FROM holdfast_checkpoint_expiry AS e WHERE e.tenant_id = :tenant AND e.thread_id = :thread
                      AND e.expires_at <= statement_timestamp())
    LIMIT 1
)
SELECT chosen.version, chosen.parent_version, chosen.created_at, chosen.step, chosen.node, chosen.key, chosen.metadata,
       chosen.manifest, chosen.refs, t.stamp, t.counter, body.data, body.sizes
FROM chosen
LEFT JOIN holdfast_checkpoint_threads AS t ON t.tenant_id = :tenant AND t.thread_id = :thread
      AND t.namespace = :namespace AND t.latest = chosen.version,
LATERAL (
    SELECT string_agg(block.data, '' ORDER BY block.i) AS data,
           string_agg(CAST(coalesce(length(block.data), -1) AS text), ',' ORDER BY block.i) AS sizes
    FROM (
        SELECT r.i, CASE WHEN r.ref = 0 THEN chosen.beside ELSE coalesce(
            (SELECT c.data FROM holdfast_checkpoints AS c WHERE r.ref > 0 AND c.tenant_id = :tenant
             AND c.thread_id = :thread AND c.namespace = :namespace AND c.version = chosen.version - r.ref),
            (SELECT b.data FROM holdfast_checkpoint_blocks AS b WHERE b.tenant_id = :tenant AND b.thread_id = :thread
             AND b.namespace = :namespace AND b.version = chosen.version - greatest(r.ref, -r.ref >> 8)
             AND b.ordinal = greatest(-r.ref, 0) & 255)
        ) END AS data
        FROM unnest(chosen.refs) WITH ORDINALITY AS r (ref, i)
        OFFSET 0
    ) AS block
) AS body;

-- name: list_checkpoints
-- Newest first, by the primary key backwards; states are not touched.
SELECT version, parent_version, created_at, step, node, key, metadata
FROM holdfast_checkpoints
WHERE tenant_id = :tenant AND thread_id = :thread AND namespace = :namespace AND version < :before
  AND metadata @> CAST(:filter AS jsonb)
  AND NOT EXISTS (SELECT FROM holdfast_checkpoint_expiry AS e WHERE e.tenant_id = :tenant AND e.thread_id = :thread
                  AND e.expires_at <= statement_timestamp())
ORDER BY version DESC
LIMIT :limit;

-- name: list_threads
-- By the primary key in order: namespaces of one thread lie together, so grouping needs no sort. :filter is on the
-- metadata of the latest checkpoint in the namespace ''; it and :cutoff may be NULL.
SELECT t.thread_id, min(t.created_at) AS created_at, max(t.updated_at) AS updated_at,
       jsonb_object_agg(t.namespace, t.latest) AS versions
FROM holdfast_checkpoint_threads AS t
WHERE t.tenant_id = :tenant AND t.thread_id > :after
GROUP BY t.thread_id
HAVING (max(t.expires_at) IS NULL OR max(t.expires_at) > statement_timestamp())
   AND (CAST(:cutoff AS timestamptz) IS NULL OR max(t.updated_at) < CAST(:cutoff AS timestamptz))
   AND (CAST(:filter AS jsonb) IS NULL OR EXISTS (
       SELECT FROM holdfast_checkpoint_threads AS h
       JOIN holdfast_checkpoints AS c ON c.tenant_id = :tenant AND c.thread_id = h.thread_id AND c.namespace = ''
            AND c.version = h.latest
       WHERE h.tenant_id = :tenant AND h.thread_id = t.thread_id AND h.namespace = ''
         AND c.metadata @> CAST(:filter AS jsonb)))
ORDER BY t.thread_id
LIMIT :limit;

-- name: list_user_threads
-- hot: threads with a checkpoint that names the user, by the index of users; the latest one must be among these.
SELECT t.thread_id, min(t.created_at) AS created_at, max(t.updated_at) AS updated_at,
       jsonb_object_agg(t.namespace, t.latest) AS versions
FROM holdfast_checkpoint_threads AS t
WHERE t.tenant_id = :tenant AND t.thread_id > :after AND t.thread_id IN (
    SELECT c.thread_id FROM holdfast_checkpoints AS c
    WHERE c.tenant_id = :tenant AND c.namespace = '' AND c.thread_id > :after
      AND c.version = (
          SELECT h.latest FROM holdfast_checkpoint_threads AS h
          WHERE h.tenant_id = :tenant AND h.thread_id = c.thread_id AND h.namespace = ''
      )
      AND hashtextextended((c.metadata ->> 'user_id') COLLATE "C", 0)
          = hashtextextended(CAST(:user AS text) COLLATE "C", 0)
      AND c.metadata -> 'user_id' = to_jsonb(CAST(:user AS text)))
GROUP BY t.thread_id
HAVING max(t.expires_at) IS NULL OR max(t.expires_at) > statement_timestamp()
ORDER BY t.thread_id
LIMIT :limit;

-- name: lock_head
-- The lock that saves take, and a new stamp, so that no save goes on from pieces that it believes stored.
UPDATE holdfast_checkpoint_threads
SET stamp = :stamp
WHERE tenant_id = :tenant AND thread_id = :thread AND namespace = :namespace;

-- name: lock_live_head
-- As lock_head, unless the thread has expired.
UPDATE holdfast_checkpoint_threads
SET stamp = :stamp
WHERE tenant_id = :tenant AND thread_id = :thread AND namespace = :namespace
  AND NOT EXISTS (SELECT FROM holdfast_checkpoint_expiry AS e WHERE e.tenant_id = :tenant AND e.thread_id = :thread
                  AND e.expires_at <= statement_timestamp());

-- name: lock_known_head
-- As lock_live_head, if nobody saved or deleted since :base; then what is known of the thread stays true.
UPDATE holdfast_checkpoint_threads
SET stamp = :stamp
WHERE tenant_id = :tenant AND thread_id = :thread AND namespace = :namespace AND stamp = :base
  AND NOT EXISTS (SELECT FROM holdfast_checkpoint_expiry AS e WHERE e.tenant_id = :tenant AND e.thread_id = :thread
                  AND e.expires_at <= statement_timestamp());

-- name: refresh_head
-- The latest is what is left; the counter stays, so that no version is ever given twice.
UPDATE holdfast_checkpoint_threads AS t
SET latest = coalesce((SELECT max(c.version) FROM holdfast_checkpoints AS c WHERE c.tenant_id = :tenant
                       AND c.thread_id = :thread AND c.namespace = :namespace), 0)
WHERE t.tenant_id = :tenant AND t.thread_id = :thread AND t.namespace = :namespace;

-- name: forget
-- After lock_head; deletes :versions with what only they need. A block beside one of them that another needs moves to
-- the table of blocks. A statement of its own, so that its snapshot has every save that held the lock before.
WITH gone AS (
    DELETE FROM holdfast_checkpoints AS c
    WHERE c.tenant_id = :tenant AND c.thread_id = :thread AND c.namespace = :namespace
      AND c.version = ANY (CAST(:versions AS bigint[]))
    RETURNING c.version, c.key, c.refs, c.data, length(c.manifest) + octet_length(c.refs) AS size
), needed AS MATERIALIZED (
    SELECT DISTINCT c.version - greatest(r.ref, -r.ref >> 8) AS version, greatest(-r.ref, 0) & 255 AS ordinal
    FROM holdfast_checkpoints AS c, unnest(CAST('{' || c.refs || '}' AS integer[])) AS r (ref)
    WHERE c.tenant_id = :tenant AND c.thread_id = :thread AND c.namespace = :namespace
      AND c.version <> ALL (CAST(:versions AS bigint[]))
), moved AS (
    INSERT INTO holdfast_checkpoint_blocks (tenant_id, thread_id, namespace, version, ordinal, data)
    SELECT :tenant, :thread, :namespace, gone.version, 0, gone.data
    FROM gone
    WHERE gone.data IS NOT NULL AND (gone.version, 0) IN (SELECT version, ordinal FROM needed)
    RETURNING length(data) AS size
), dropped AS (
    DELETE FROM holdfast_checkpoint_blocks AS b
    USING (SELECT DISTINCT gone.version - greatest(r.ref, -r.ref >> 8) AS version,
                  greatest(-r.ref, 0) & 255 AS ordinal
           FROM gone, unnest(CAST('{' || gone.refs || '}' AS integer[])) AS r (ref)) AS held
    WHERE b.tenant_id = :tenant AND b.thread_id = :thread AND b.namespace = :namespace
      AND b.version = held.version AND b.ordinal = held.ordinal
      AND (held.version, held.ordinal) NOT IN (SELECT version, ordinal FROM needed)
    RETURNING length(b.data) AS size
), written AS (
    DELETE FROM holdfast_checkpoint_writes AS w
    WHERE w.tenant_id = :tenant AND w.thread_id = :thread AND w.namespace = :namespace
      AND w.key IN (SELECT key FROM gone)
)
SELECT count(*) AS checkpoints,
       coalesce(sum(gone.size + coalesce(length(gone.data), 0)), 0)
       + coalesce((SELECT sum(size) FROM dropped), 0) - coalesce((SELECT sum(size) FROM moved), 0) AS bytes
FROM gone;

-- name: lock_thread
-- The heads of all namespaces, in order, so that two deletes don't wait for each other in a circle.
SELECT namespace, updated_at, coalesce(expires_at <= statement_timestamp(), false) AS expired
FROM holdfast_checkpoint_threads
WHERE tenant_id = :tenant AND thread_id = :thread
ORDER BY namespace
FOR UPDATE;

-- name: mark_thread
-- A stamp of this delete's own says which heads it holds.
UPDATE holdfast_checkpoint_threads
SET stamp = :stamp
WHERE tenant_id = :tenant AND thread_id = :thread;

-- name: delete_thread_checkpoints
-- Under the heads that mark_thread marked; a namespace that came later is another save's.
DELETE FROM holdfast_checkpoints
WHERE tenant_id = :tenant AND thread_id = :thread AND namespace IN (
    SELECT namespace FROM holdfast_checkpoint_threads
    WHERE tenant_id = :tenant AND thread_id = :thread AND stamp = :stamp
);

-- name: delete_thread_blocks
-- As delete_thread_checkpoints.
DELETE FROM holdfast_checkpoint_blocks
WHERE tenant_id = :tenant AND thread_id = :thread AND namespace IN (
    SELECT namespace FROM holdfast_checkpoint_threads
    WHERE tenant_id = :tenant AND thread_id = :thread AND stamp = :stamp
);

-- name: delete_thread_heads
-- Last; whoever waits for the lock finds the thread gone.
DELETE FROM holdfast_checkpoint_threads
WHERE tenant_id = :tenant AND thread_id = :thread AND stamp = :stamp;

-- name: load_key
-- As load_version, by the idempotency key.
-- hot
WITH chosen AS (
    SELECT c.version, c.parent_version, c.created_at, c.step, c.node, c.key, c.metadata, c.manifest,
           CAST('{' || c.refs || '}' AS integer[]) AS refs, c.data AS beside
    FROM holdfast_checkpoints AS c
    WHERE c.tenant_id = :tenant AND c.thread_id = :thread AND c.namespace = :namespace
      AND c.key = :key
      AND NOT EXISTS (SELECT FROM holdfast_checkpoint_expiry AS e WHERE e.tenant_id = :tenant AND e.thread_id = :thread
                      AND e.expires_at <= statement_timestamp())
    LIMIT 1
)
SELECT chosen.version, chosen.parent_version, chosen.created_at, chosen.step, chosen.node, chosen.key, chosen.metadata,
       chosen.manifest, chosen.refs, t.stamp, t.counter, body.data, body.sizes
FROM chosen
LEFT JOIN holdfast_checkpoint_threads AS t ON t.tenant_id = :tenant AND t.thread_id = :thread
      AND t.namespace = :namespace AND t.latest = chosen.version,
LATERAL (
    SELECT string_agg(block.data, '' ORDER BY block.i) AS data,
           string_agg(CAST(coalesce(length(block.data), -1) AS text), ',' ORDER BY block.i) AS sizes
    FROM (
        SELECT r.i, CASE WHEN r.ref = 0 THEN chosen.beside ELSE coalesce(
            (SELECT c.data FROM holdfast_checkpoints AS c WHERE r.ref > 0 AND c.tenant_id = :tenant
             AND c.thread_id = :thread AND c.namespace = :namespace AND c.version = chosen.version - r.ref),
            (SELECT b.data FROM holdfast_checkpoint_blocks AS b WHERE b.tenant_id = :tenant AND b.thread_id = :thread
             AND b.namespace = :namespace AND b.version = chosen.version - greatest(r.ref, -r.ref >> 8)
             AND b.ordinal = greatest(-r.ref, 0) & 255)
        ) END AS data
        FROM unnest(chosen.refs) WITH ORDINALITY AS r (ref, i)
        OFFSET 0
    ) AS block
) AS body;

-- name: list_states
-- As list_checkpoints, each with its blocks as in load_latest, but for those of the row before (size -1), which the
-- reader has.
WITH chosen AS (
    SELECT c.version, c.parent_version, c.created_at, c.step, c.node, c.key, c.metadata, c.manifest,
           CAST('{' || c.refs || '}' AS integer[]) AS refs, c.data AS beside
    FROM holdfast_checkpoints AS c
    WHERE c.tenant_id = :tenant AND c.thread_id = :thread AND c.namespace = :namespace AND c.version < :before
      AND c.metadata @> CAST(:filter AS jsonb)
      AND NOT EXISTS (SELECT FROM holdfast_checkpoint_expiry AS e WHERE e.tenant_id = :tenant AND e.thread_id = :thread
                      AND e.expires_at <= statement_timestamp())
    ORDER BY c.version DESC
    LIMIT :limit
), shown AS (
    SELECT chosen.*, lag(chosen.refs) OVER newest AS sent,
           least(lag(chosen.version) OVER newest - chosen.version, 8388608) AS gap
    FROM chosen
    WINDOW newest AS (ORDER BY chosen.version DESC)
)
SELECT shown.version, shown.parent_version, shown.created_at, shown.step, shown.node, shown.key, shown.metadata,
       shown.manifest, shown.refs, t.stamp, t.counter, body.data, body.sizes
FROM shown
LEFT JOIN holdfast_checkpoint_threads AS t ON t.tenant_id = :tenant AND t.thread_id = :thread
      AND t.namespace = :namespace AND t.latest = shown.version,
LATERAL (
    SELECT string_agg(block.data, '' ORDER BY block.i) AS data,
           string_agg(CAST(coalesce(length(block.data), -1) AS text), ',' ORDER BY block.i) AS sizes
    FROM (
        SELECT r.i, CASE WHEN (r.ref + shown.gap * CASE WHEN r.ref < 0 THEN -256 ELSE 1 END = ANY (shown.sent))
                              IS NOT TRUE THEN CASE WHEN r.ref = 0 THEN shown.beside ELSE coalesce(
            (SELECT c.data FROM holdfast_checkpoints AS c WHERE r.ref > 0 AND c.tenant_id = :tenant
             AND c.thread_id = :thread AND c.namespace = :namespace AND c.version = shown.version - r.ref),
            (SELECT b.data FROM holdfast_checkpoint_blocks AS b WHERE b.tenant_id = :tenant AND b.thread_id = :thread
             AND b.namespace = :namespace AND b.version = shown.version - greatest(r.ref, -r.ref >> 8)
             AND b.ordinal = greatest(-r.ref, 0) & 255)
        ) END END AS data
        FROM unnest(shown.refs) WITH ORDINALITY AS r (ref, i)
        OFFSET 0
    ) AS block
) AS body
ORDER BY shown.version DESC;

-- name: renew_head
-- A namespace that nobody saved to for longer than its thread's time to live, while others kept the thread alive.
UPDATE holdfast_checkpoint_threads AS t
SET expires_at = e.expires_at
FROM holdfast_checkpoint_expiry AS e
WHERE t.tenant_id = :tenant AND t.thread_id = :thread AND t.namespace = :namespace
  AND e.tenant_id = :tenant AND e.thread_id = :thread AND e.expires_at > statement_timestamp();

-- name: put_writes
-- hot
-- The head is made where it is missing, for the writes refer to it; nothing is written when the thread has expired.
WITH alive AS (
    SELECT max(o.ttl) AS ttl, max(o.expires_at) AS expires_at
    FROM holdfast_checkpoint_threads AS o
    WHERE o.tenant_id = :tenant AND o.thread_id = :thread AND o.expires_at IS NOT NULL
    HAVING max(o.expires_at) IS NULL OR max(o.expires_at) > statement_timestamp()
), head AS (
    INSERT INTO holdfast_checkpoint_threads (tenant_id, thread_id, namespace, latest, counter, stamp, created_at,
                                             updated_at, ttl, expires_at)
    SELECT :tenant, :thread, :namespace, 0, 0, :stamp, :now, :now, alive.ttl, alive.expires_at
    FROM alive
    WHERE NOT EXISTS (SELECT FROM holdfast_checkpoint_threads AS t WHERE t.tenant_id = :tenant
                      AND t.thread_id = :thread AND t.namespace = :namespace)
    ON CONFLICT DO NOTHING
), written AS (
    INSERT INTO holdfast_checkpoint_writes AS w (tenant_id, thread_id, namespace, key, task_id, idx, task_path,
                                                 channel, data)
    SELECT :tenant, :thread, :namespace, :key, :task, CAST(i.item ->> 0 AS bigint), :path, i.item ->> 1,
           substring(CAST(:data AS bytea) FROM CAST(i.item ->> 2 AS integer) FOR CAST(i.item ->> 3 AS integer))
    FROM alive, json_array_elements(CAST(:items AS json)) AS i (item)
    ON CONFLICT (tenant_id, thread_id, namespace, key, task_id, idx) DO UPDATE
    SET channel = excluded.channel, data = excluded.data, task_path = excluded.task_path
    WHERE w.idx < 0
)
SELECT NOT EXISTS (SELECT FROM alive) AS expired;

-- name: pending_writes
-- hot
-- By the primary key as far as the checkpoint; the writes of one step are few.
SELECT w.task_id, w.channel, w.idx, w.task_path, w.data
FROM holdfast_checkpoint_writes AS w
WHERE w.tenant_id = :tenant AND w.thread_id = :thread AND w.namespace = :namespace AND w.key = :key
  AND NOT EXISTS (SELECT FROM holdfast_checkpoint_expiry AS e WHERE e.tenant_id = :tenant AND e.thread_id = :thread
                  AND e.expires_at <= statement_timestamp())
ORDER BY w.task_path, w.task_id, w.idx;

-- name: with_writes
-- The end of a statement that loads checkpoints with their pending writes; no statement of its own.
LEFT JOIN LATERAL (
    SELECT CAST(json_agg(json_build_array(w.task_id, w.channel, w.idx, w.task_path, length(w.data))
                         ORDER BY w.task_path, w.task_id, w.idx) AS text) AS writes,
           string_agg(w.data, '' ORDER BY w.task_path, w.task_id, w.idx) AS writes_data
    FROM holdfast_checkpoint_writes AS w
    WHERE w.tenant_id = :tenant AND w.thread_id = :thread AND w.namespace = :namespace AND w.key = loaded.key
) AS pending ON true
ORDER BY loaded.version DESC;

-- name: find_checkpoint
-- The latest of a step or a node; both may be NULL, and then any will do.
SELECT version, parent_version, created_at, step, node, key, metadata
FROM holdfast_checkpoints
WHERE tenant_id = :tenant AND thread_id = :thread AND namespace = :namespace
  AND (CAST(:step AS bigint) IS NULL OR step = CAST(:step AS bigint))
  AND (CAST(:node AS text) IS NULL OR node = CAST(:node AS text))
  AND NOT EXISTS (SELECT FROM holdfast_checkpoint_expiry AS e WHERE e.tenant_id = :tenant AND e.thread_id = :thread
                  AND e.expires_at <= statement_timestamp())
ORDER BY version DESC
LIMIT 1;

-- name: history
-- From parent to parent, always to a lower version, so that no circle can be; ends as soon as :limit are found.
WITH RECURSIVE chain AS (
    SELECT c.version, CAST(CASE WHEN c.version < :before THEN 1 ELSE 0 END AS bigint) AS found
    FROM holdfast_checkpoints AS c
    WHERE c.tenant_id = :tenant AND c.thread_id = :thread AND c.namespace = :namespace
      AND c.version = (SELECT max(l.version) FROM holdfast_checkpoints AS l WHERE l.tenant_id = :tenant
                       AND l.thread_id = :thread AND l.namespace = :namespace)
      AND NOT EXISTS (SELECT FROM holdfast_checkpoint_expiry AS e WHERE e.tenant_id = :tenant
                      AND e.thread_id = :thread AND e.expires_at <= statement_timestamp())
    UNION ALL
    SELECT p.version, chain.found + CASE WHEN p.version < :before THEN 1 ELSE 0 END
    FROM chain
    JOIN holdfast_checkpoints AS c ON c.tenant_id = :tenant AND c.thread_id = :thread AND c.namespace = :namespace
         AND c.version = chain.version
    JOIN holdfast_checkpoints AS p ON p.tenant_id = :tenant AND p.thread_id = :thread AND p.namespace = :namespace
         AND p.version = c.parent_version AND p.version < c.version
    WHERE chain.found < :limit
)
SELECT c.version, c.parent_version, c.created_at, c.step, c.node, c.key, c.metadata
FROM chain
JOIN holdfast_checkpoints AS c ON c.tenant_id = :tenant AND c.thread_id = :thread AND c.namespace = :namespace
     AND c.version = chain.version
WHERE chain.version < :before
ORDER BY chain.version DESC
LIMIT :limit;

-- name: fork
-- One statement, so one snapshot: a checkpoint that is in it has all its blocks in it, whoever deletes them meanwhile.
-- Nothing is written where the new thread has had a checkpoint in that namespace.
WITH source AS (
    SELECT c.created_at, c.step, c.node, c.key, c.metadata, c.manifest, c.refs, c.data
    FROM holdfast_checkpoints AS c
    WHERE c.tenant_id = :tenant AND c.thread_id = :thread AND c.namespace = :namespace AND c.version = :version
      AND NOT EXISTS (SELECT FROM holdfast_checkpoint_expiry AS e WHERE e.tenant_id = :tenant
                      AND e.thread_id = :thread AND e.expires_at <= statement_timestamp())
), head AS (
    INSERT INTO holdfast_checkpoint_threads AS t (tenant_id, thread_id, namespace, latest, counter, stamp, created_at,
                                                  updated_at, ttl, expires_at)
    SELECT :tenant, :new_thread, :namespace, 1, 1, :stamp, :now, :now, max(o.ttl),
           coalesce(statement_timestamp() + max(o.ttl), max(o.expires_at))
    FROM source
    LEFT JOIN holdfast_checkpoint_threads AS o ON o.tenant_id = :tenant AND o.thread_id = :new_thread
    HAVING count(source.created_at) > 0 AND (max(o.expires_at) IS NULL OR max(o.expires_at) > statement_timestamp())
    ON CONFLICT (tenant_id, thread_id, namespace) DO UPDATE
    SET latest = 1, counter = 1, stamp = excluded.stamp, updated_at = excluded.updated_at,
        expires_at = excluded.expires_at
    WHERE t.counter = 0
    RETURNING t.counter
), block AS (
    INSERT INTO holdfast_checkpoint_blocks (tenant_id, thread_id, namespace, version, ordinal, data)
    SELECT :tenant, :new_thread, :namespace, head.counter - greatest(found.ref, -found.ref >> 8),
           greatest(-found.ref, 0) & 255, found.data
    FROM head, (
        SELECT r.ref, coalesce(
            (SELECT c.data FROM holdfast_checkpoints AS c WHERE r.ref > 0 AND c.tenant_id = :tenant
             AND c.thread_id = :thread AND c.namespace = :namespace AND c.version = :version - r.ref),
            (SELECT b.data FROM holdfast_checkpoint_blocks AS b WHERE b.tenant_id = :tenant AND b.thread_id = :thread
             AND b.namespace = :namespace AND b.version = :version - greatest(r.ref, -r.ref >> 8)
             AND b.ordinal = greatest(-r.ref, 0) & 255)
        ) AS data
        FROM source, unnest(CAST('{' || source.refs || '}' AS integer[])) AS r (ref)
        WHERE r.ref <> 0
    ) AS found
    WHERE found.data IS NOT NULL
), saved AS (
    INSERT INTO holdfast_checkpoints (tenant_id, thread_id, namespace, version, created_at, step, node, metadata,
                                      manifest, refs, data, key)
    SELECT :tenant, :new_thread, :namespace, head.counter, source.created_at, source.step, source.node,
           source.metadata, source.manifest, source.refs, source.data, source.key
    FROM head, source
    RETURNING version
)
SELECT EXISTS (SELECT FROM source) AS found, EXISTS (SELECT FROM saved) AS saved;

-- name: copy_thread
-- As fork, of all namespaces with all that is in them. A head that comes meanwhile is a violation of the primary key.
WITH heads AS (
    INSERT INTO holdfast_checkpoint_threads (tenant_id, thread_id, namespace, latest, counter, parent, stamp,
                                             created_at, updated_at)
    SELECT t.tenant_id, :new_thread, t.namespace, t.latest, t.counter, t.parent, :stamp, :now, :now
    FROM holdfast_checkpoint_threads AS t
    WHERE t.tenant_id = :tenant AND t.thread_id = :thread
      AND NOT EXISTS (SELECT FROM holdfast_checkpoint_threads AS o WHERE o.tenant_id = :tenant
                      AND o.thread_id = :new_thread)
      AND NOT EXISTS (SELECT FROM holdfast_checkpoint_expiry AS e WHERE e.tenant_id = :tenant
                      AND e.thread_id = :thread AND e.expires_at <= statement_timestamp())
    RETURNING namespace
), blocks AS (
    INSERT INTO holdfast_checkpoint_blocks (tenant_id, thread_id, namespace, version, ordinal, data)
    SELECT b.tenant_id, :new_thread, b.namespace, b.version, b.ordinal, b.data
    FROM holdfast_checkpoint_blocks AS b
    WHERE b.tenant_id = :tenant AND b.thread_id = :thread AND b.namespace IN (SELECT namespace FROM heads)
), writes AS (
    INSERT INTO holdfast_checkpoint_writes (tenant_id, thread_id, namespace, key, task_id, idx, task_path, channel,
                                            data)
    SELECT w.tenant_id, :new_thread, w.namespace, w.key, w.task_id, w.idx, w.task_path, w.channel, w.data
    FROM holdfast_checkpoint_writes AS w
    WHERE w.tenant_id = :tenant AND w.thread_id = :thread AND w.namespace IN (SELECT namespace FROM heads)
), saved AS (
    INSERT INTO holdfast_checkpoints (tenant_id, thread_id, namespace, version, parent_version, created_at, step,
                                      node, metadata, manifest, refs, data, key)
    SELECT c.tenant_id, :new_thread, c.namespace, c.version, c.parent_version, c.created_at, c.step, c.node,
           c.metadata, c.manifest, c.refs, c.data, c.key
    FROM holdfast_checkpoints AS c
    WHERE c.tenant_id = :tenant AND c.thread_id = :thread AND c.namespace IN (SELECT namespace FROM heads)
    RETURNING 1
)
SELECT (SELECT count(*) FROM saved) AS saved, EXISTS (SELECT FROM heads) AS made,
       EXISTS (SELECT FROM holdfast_checkpoint_threads AS t WHERE t.tenant_id = :tenant AND t.thread_id = :thread)
       AND NOT EXISTS (SELECT FROM holdfast_checkpoint_expiry AS e WHERE e.tenant_id = :tenant
                       AND e.thread_id = :thread AND e.expires_at <= statement_timestamp()) AS found;

-- name: load_manifest
-- After lock_head: what a rewind goes back to, and the version that it will be.
SELECT c.step, c.node, c.key, CAST(c.metadata AS text) AS metadata, c.manifest,
       CAST('{' || c.refs || '}' AS integer[]) AS refs, t.counter + 1 AS next
FROM holdfast_checkpoints AS c
JOIN holdfast_checkpoint_threads AS t ON t.tenant_id = :tenant AND t.thread_id = :thread AND t.namespace = :namespace
WHERE c.tenant_id = :tenant AND c.thread_id = :thread AND c.namespace = :namespace AND c.version = :version
  AND NOT EXISTS (SELECT FROM holdfast_checkpoint_expiry AS e WHERE e.tenant_id = :tenant AND e.thread_id = :thread
                  AND e.expires_at <= statement_timestamp());

-- name: rewind
-- Then the checkpoint, whose blocks are there.
WITH head AS (
    UPDATE holdfast_checkpoint_threads AS t
    SET latest = t.counter + 1, counter = t.counter + 1, parent = nullif(t.latest, 0), stamp = :stamp,
        updated_at = :now, expires_at = coalesce(statement_timestamp() + t.ttl, t.expires_at)
    WHERE t.tenant_id = :tenant AND t.thread_id = :thread AND t.namespace = :namespace
    RETURNING t.counter
)
INSERT INTO holdfast_checkpoints (tenant_id, thread_id, namespace, version, parent_version, created_at, step, node,
                                  metadata, manifest, refs)
SELECT :tenant, :thread, :namespace, head.counter, :version, :now, :step, :node, CAST(:metadata AS jsonb),
       CAST(:manifest AS bytea), :refs
FROM head
RETURNING version;

-- name: list_namespaces
-- By the primary key; :after is the last one seen, :start whether there is none yet.
SELECT t.namespace
FROM holdfast_checkpoint_threads AS t
WHERE t.tenant_id = :tenant AND t.thread_id = :thread AND (CAST(:start AS boolean) OR t.namespace > :after)
ORDER BY t.namespace
LIMIT :limit;

-- name: list_prunable
-- The heads that have a checkpoint to prune; the conditions are those of list_victims.
SELECT t.thread_id, t.namespace
FROM holdfast_checkpoint_threads AS t
WHERE t.tenant_id = :tenant AND (t.thread_id, t.namespace) > (:after_thread, :after_namespace)
  AND EXISTS (
    SELECT FROM holdfast_checkpoints AS c
    WHERE c.tenant_id = :tenant AND c.thread_id = t.thread_id AND c.namespace = t.namespace
      AND c.version < (SELECT min(n.version) FROM (
          SELECT l.version FROM holdfast_checkpoints AS l
          WHERE l.tenant_id = :tenant AND l.thread_id = t.thread_id AND l.namespace = t.namespace
          ORDER BY l.version DESC LIMIT :keep_last) AS n)
      AND (CAST(:cutoff AS timestamptz) IS NULL OR c.created_at < CAST(:cutoff AS timestamptz))
      AND NOT (CAST(:keep_tagged AS boolean) AND c.metadata -> 'tag' IS NOT NULL)
  )
ORDER BY t.thread_id, t.namespace
LIMIT :limit;

-- name: list_victims
-- After lock_head. Never one of the newest :keep_last, nor the latest among them.
SELECT o.version
FROM holdfast_checkpoints AS o
WHERE o.tenant_id = :tenant AND o.thread_id = :thread AND o.namespace = :namespace
  AND o.version < (SELECT min(n.version) FROM (
      SELECT l.version FROM holdfast_checkpoints AS l
      WHERE l.tenant_id = :tenant AND l.thread_id = :thread AND l.namespace = :namespace
      ORDER BY l.version DESC LIMIT :keep_last) AS n)
  AND (CAST(:cutoff AS timestamptz) IS NULL OR o.created_at < CAST(:cutoff AS timestamptz))
  AND NOT (CAST(:keep_tagged AS boolean) AND o.metadata -> 'tag' IS NOT NULL)
ORDER BY o.version
LIMIT :batch;

-- name: set_ttl
-- Of every namespace; NULL for both: the thread stays for ever. Not of a thread that has expired.
UPDATE holdfast_checkpoint_threads
SET ttl = CASE WHEN CAST(:sliding AS boolean) THEN CAST(:ttl AS interval) END,
    expires_at = statement_timestamp() + CAST(:ttl AS interval)
WHERE tenant_id = :tenant AND thread_id = :thread
  AND NOT EXISTS (SELECT FROM holdfast_checkpoint_expiry AS e WHERE e.tenant_id = :tenant AND e.thread_id = :thread
                  AND e.expires_at <= statement_timestamp());

-- name: list_expired
-- By the index on expiry, which has only threads with a time to live.
SELECT e.thread_id
FROM holdfast_checkpoint_expiry AS e
WHERE e.tenant_id = :tenant AND e.expires_at <= statement_timestamp()
ORDER BY e.thread_id
LIMIT :limit;

-- name: list_sealed
-- By the primary key, to be sealed anew.
SELECT version, key, manifest, data
FROM holdfast_checkpoints
WHERE tenant_id = :tenant AND thread_id = :thread AND namespace = :namespace AND version > :after
ORDER BY version
LIMIT :limit;

-- name: list_sealed_blocks
-- As list_sealed.
SELECT version, ordinal, data
FROM holdfast_checkpoint_blocks
WHERE tenant_id = :tenant AND thread_id = :thread AND namespace = :namespace
  AND (version, ordinal) > (:after, :after_ordinal)
ORDER BY version, ordinal
LIMIT :limit;

-- name: list_sealed_writes
-- As list_sealed.
SELECT key, task_id, idx, channel, data
FROM holdfast_checkpoint_writes
WHERE tenant_id = :tenant AND thread_id = :thread AND namespace = :namespace
  AND (key, task_id, idx) > (:after, :after_task, :after_index)
ORDER BY key, task_id, idx
LIMIT :limit;

-- name: seal_checkpoint
-- Under the head's lock.
UPDATE holdfast_checkpoints SET manifest = :manifest, data = :data
WHERE tenant_id = :tenant AND thread_id = :thread AND namespace = :namespace AND version = :version;

-- name: seal_block
-- As seal_checkpoint.
UPDATE holdfast_checkpoint_blocks SET data = :data
WHERE tenant_id = :tenant AND thread_id = :thread AND namespace = :namespace AND version = :version
  AND ordinal = :ordinal;

-- name: seal_write
-- As seal_checkpoint.
UPDATE holdfast_checkpoint_writes SET data = :data
WHERE tenant_id = :tenant AND thread_id = :thread AND namespace = :namespace AND key = :key AND task_id = :task
  AND idx = :idx;

-- name: list_heads
-- The threads, by the primary key.
SELECT DISTINCT thread_id
FROM holdfast_checkpoint_threads
WHERE tenant_id = :tenant AND thread_id > :after
ORDER BY thread_id
LIMIT :limit;

-- name: broken_index
-- What a build that was cut off leaves behind.
SELECT true
FROM pg_index
WHERE indexrelid = to_regclass('holdfast_checkpoints_metadata') AND NOT indisvalid
LIMIT 1;

-- name: drop_metadata_index
-- So that it can be made again.
DROP INDEX CONCURRENTLY IF EXISTS holdfast_checkpoints_metadata;

-- name: index_metadata
-- Containment only, which is what filters ask for: smaller and faster than the other operator class.
CREATE INDEX CONCURRENTLY IF NOT EXISTS holdfast_checkpoints_metadata
ON holdfast_checkpoints USING gin (metadata jsonb_path_ops);
