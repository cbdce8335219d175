-- The statements of DatabaseCheckpointer on SQLite, where one transaction writes at a time.

-- name: advance_next
-- First of the commonest save: the next version, on the base that this process has in mind.
-- hot
UPDATE holdfast_checkpoint_threads AS t
SET latest = t.counter + 1, counter = t.counter + 1, stamp = :stamp, updated_at = :now,
    expires_at = coalesce(:now + t.ttl, t.expires_at)
WHERE t.tenant_id = :tenant AND t.thread_id = :thread AND t.namespace = :namespace AND t.stamp = :base
  AND (t.expires_at IS NULL OR t.expires_at > :now);

-- name: save_next
-- Then the checkpoint, if that did change the head.
-- hot
INSERT INTO holdfast_checkpoints (tenant_id, thread_id, namespace, version, parent_version, created_at, step, node,
                                  metadata, manifest, refs, data, key)
SELECT t.tenant_id, t.thread_id, t.namespace, t.counter, :parent, :timestamp, :step, :node, :metadata, :manifest,
       :refs, :data, :key
FROM holdfast_checkpoint_threads AS t
WHERE t.tenant_id = :tenant AND t.thread_id = :thread AND t.namespace = :namespace AND t.stamp = :stamp
RETURNING version;

-- name: advance_head
-- A save on a thread that exists; :base, :expected and :version may be NULL.
UPDATE holdfast_checkpoint_threads AS t
SET latest = max(t.latest, coalesce(:version, t.counter + 1)),
    counter = max(t.counter, coalesce(:version, t.counter + 1)),
    parent = CASE WHEN coalesce(:version, t.counter + 1) > t.latest THEN nullif(t.latest, 0) END,
    stamp = :stamp, updated_at = :now, expires_at = coalesce(:now + t.ttl, t.expires_at)
WHERE t.tenant_id = :tenant AND t.thread_id = :thread AND t.namespace = :namespace
  AND (:base IS NULL OR t.stamp = :base)
  AND (:expected IS NULL OR t.latest = :expected)
  AND NOT EXISTS (SELECT 1 FROM holdfast_checkpoints AS c WHERE c.tenant_id = :tenant AND c.thread_id = :thread
                  AND c.namespace = :namespace AND c.version = :version)
  AND NOT EXISTS (SELECT 1 FROM holdfast_checkpoint_blocks AS b WHERE b.tenant_id = :tenant AND b.thread_id = :thread
                  AND b.namespace = :namespace AND b.version = :version)
  AND (t.expires_at IS NULL OR t.expires_at > :now)
  AND (:key IS NULL OR NOT EXISTS (
      SELECT 1 FROM holdfast_checkpoints AS c WHERE c.tenant_id = :tenant AND c.thread_id = :thread
      AND c.namespace = :namespace AND c.key = :key))
RETURNING counter, parent;

-- name: make_head
-- A save that sends every piece and makes the thread where it is missing; :expected is NULL or 0.
INSERT INTO holdfast_checkpoint_threads AS t (tenant_id, thread_id, namespace, latest, counter, parent, stamp,
                                              created_at, updated_at, ttl, expires_at)
SELECT :tenant, :thread, :namespace, coalesce(:version, 1), coalesce(:version, 1), NULL, :stamp, :now, :now,
       max(o.ttl), coalesce(:now + max(o.ttl), max(o.expires_at))
FROM holdfast_checkpoint_threads AS o
WHERE o.tenant_id = :tenant AND o.thread_id = :thread AND o.expires_at IS NOT NULL
HAVING max(o.expires_at) IS NULL OR max(o.expires_at) > :now
ON CONFLICT (tenant_id, thread_id, namespace) DO UPDATE
SET latest = max(t.latest, coalesce(:version, t.counter + 1)),
    counter = max(t.counter, coalesce(:version, t.counter + 1)),
    parent = CASE WHEN coalesce(:version, t.counter + 1) > t.latest THEN nullif(t.latest, 0) END,
    stamp = excluded.stamp, updated_at = excluded.updated_at,
    expires_at = coalesce(:now + t.ttl, t.expires_at)
WHERE (:expected IS NULL OR t.latest = :expected)
  AND NOT EXISTS (SELECT 1 FROM holdfast_checkpoints AS c WHERE c.tenant_id = :tenant AND c.thread_id = :thread
                  AND c.namespace = :namespace AND c.version = :version)
  AND NOT EXISTS (SELECT 1 FROM holdfast_checkpoint_blocks AS b WHERE b.tenant_id = :tenant AND b.thread_id = :thread
                  AND b.namespace = :namespace AND b.version = :version)
  AND (t.expires_at IS NULL OR t.expires_at > :now)
  AND (:key IS NULL OR NOT EXISTS (
      SELECT 1 FROM holdfast_checkpoints AS c WHERE c.tenant_id = :tenant AND c.thread_id = :thread
      AND c.namespace = :namespace AND c.key = :key))
RETURNING counter, parent;

-- name: save_block
-- A block of its own, beside the checkpoint that it belongs to.
INSERT INTO holdfast_checkpoint_blocks (tenant_id, thread_id, namespace, version, ordinal, data)
VALUES (:tenant, :thread, :namespace, :version, :ordinal, :data);

-- name: save_checkpoint
-- Last, in the transaction that advanced the head and holds SQLite's one write lock.
INSERT INTO holdfast_checkpoints (tenant_id, thread_id, namespace, version, parent_version, created_at, step, node,
                                  metadata, manifest, refs, data, key)
VALUES (:tenant, :thread, :namespace, :version, :parent, :timestamp, :step, :node, :metadata, :manifest, :refs, :data,
        :key);

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
       EXISTS (SELECT 1 FROM holdfast_checkpoints AS c WHERE c.tenant_id = :tenant AND c.thread_id = :thread
               AND c.namespace = :namespace AND c.version = :version) AS taken,
       EXISTS (SELECT 1 FROM holdfast_checkpoints AS c WHERE c.tenant_id = :tenant AND c.thread_id = :thread
               AND c.namespace = :namespace AND c.key = :key) AS kept,
       EXISTS (SELECT 1 FROM holdfast_checkpoint_blocks AS b WHERE b.tenant_id = :tenant AND b.thread_id = :thread
               AND b.namespace = :namespace AND b.version = :version) AS held,
       (SELECT e.expires_at <= :now FROM holdfast_checkpoint_expiry AS e
        WHERE e.tenant_id = :tenant AND e.thread_id = :thread) AS expired
FROM holdfast_checkpoint_threads AS t
WHERE t.tenant_id = :tenant AND t.thread_id = :thread AND t.namespace = :namespace;

-- name: load_latest
-- A row for each block (data NULL: missing), its place that in refs, or one without a place when there are none, and
-- while the stamp is :base: who asks has them. To sort them here would move their bytes.
WITH chosen AS MATERIALIZED (
    SELECT c.version, c.parent_version, c.created_at, c.step, c.node, c.key, c.metadata, c.manifest, c.refs,
           c.data AS beside, t.stamp, t.counter
    FROM holdfast_checkpoints AS c
    LEFT JOIN holdfast_checkpoint_threads AS t ON t.tenant_id = :tenant AND t.thread_id = :thread
         AND t.namespace = :namespace AND t.latest = c.version
    WHERE c.tenant_id = :tenant AND c.thread_id = :thread AND c.namespace = :namespace
      AND NOT EXISTS (SELECT 1 FROM holdfast_checkpoint_expiry AS e WHERE e.tenant_id = :tenant
                      AND e.thread_id = :thread AND e.expires_at <= :now)
    ORDER BY c.version DESC
    LIMIT 1
)
SELECT chosen.version, chosen.parent_version, chosen.created_at, chosen.step, chosen.node, chosen.key, chosen.metadata,
       chosen.manifest, chosen.refs, chosen.stamp, chosen.counter, r.key AS place,
       CASE WHEN r.value = 0 THEN chosen.beside ELSE coalesce(
           (SELECT c.data FROM holdfast_checkpoints AS c WHERE r.value & 255 = 0 AND c.tenant_id = :tenant
            AND c.thread_id = :thread AND c.namespace = :namespace AND c.version = chosen.version - (r.value >> 8)),
           (SELECT b.data FROM holdfast_checkpoint_blocks AS b WHERE b.tenant_id = :tenant AND b.thread_id = :thread
            AND b.namespace = :namespace AND b.version = chosen.version - (r.value >> 8) AND b.ordinal = r.value & 255)
       ) END AS data,
       NULL AS task_id, NULL AS channel, NULL AS idx, NULL AS task_path
FROM chosen
LEFT JOIN json_each(CASE WHEN chosen.stamp IS :base AND :base IS NOT NULL THEN '[]' ELSE chosen.refs END) AS r;

-- name: load_version
-- As load_latest, for a version that is named.
WITH chosen AS MATERIALIZED (
    SELECT c.version, c.parent_version, c.created_at, c.step, c.node, c.key, c.metadata, c.manifest, c.refs,
           c.data AS beside, t.stamp, t.counter
    FROM holdfast_checkpoints AS c
    LEFT JOIN holdfast_checkpoint_threads AS t ON t.tenant_id = :tenant AND t.thread_id = :thread
         AND t.namespace = :namespace AND t.latest = c.version
    WHERE c.tenant_id = :tenant AND c.thread_id = :thread AND c.namespace = :namespace AND c.version = :version
      AND NOT EXISTS (SELECT 1 FROM holdfast_checkpoint_expiry AS e WHERE e.tenant_id = :tenant
                      AND e.thread_id = :thread AND e.expires_at <= :now)
    LIMIT 1
)
SELECT chosen.version, chosen.parent_version, chosen.created_at, chosen.step, chosen.node, chosen.key, chosen.metadata,
       chosen.manifest, chosen.refs, chosen.stamp, chosen.counter, r.key AS place,
       CASE WHEN r.value = 0 THEN chosen.beside ELSE coalesce(
           (SELECT c.data FROM holdfast_checkpoints AS c WHERE r.value & 255 = 0 AND c.tenant_id = :tenant
            AND c.thread_id = :thread AND c.namespace = :namespace AND c.version = chosen.version - (r.value >> 8)),
           (SELECT b.data FROM holdfast_checkpoint_blocks AS b WHERE b.tenant_id = :tenant AND b.thread_id = :thread
            AND b.namespace = :namespace AND b.version = chosen.version - (r.value >> 8) AND b.ordinal = r.value & 255)
       ) END AS data,
       NULL AS task_id, NULL AS channel, NULL AS idx, NULL AS task_path
FROM chosen
LEFT JOIN json_each(chosen.refs) AS r;

-- name: load_key
-- As load_version, by the idempotency key.
WITH chosen AS MATERIALIZED (
    SELECT c.version, c.parent_version, c.created_at, c.step, c.node, c.key, c.metadata, c.manifest, c.refs,
           c.data AS beside, t.stamp, t.counter
    FROM holdfast_checkpoints AS c
    LEFT JOIN holdfast_checkpoint_threads AS t ON t.tenant_id = :tenant AND t.thread_id = :thread
         AND t.namespace = :namespace AND t.latest = c.version
    WHERE c.tenant_id = :tenant AND c.thread_id = :thread AND c.namespace = :namespace AND c.key = :key
      AND NOT EXISTS (SELECT 1 FROM holdfast_checkpoint_expiry AS e WHERE e.tenant_id = :tenant
                      AND e.thread_id = :thread AND e.expires_at <= :now)
    LIMIT 1
)
SELECT chosen.version, chosen.parent_version, chosen.created_at, chosen.step, chosen.node, chosen.key, chosen.metadata,
       chosen.manifest, chosen.refs, chosen.stamp, chosen.counter, r.key AS place,
       CASE WHEN r.value = 0 THEN chosen.beside ELSE coalesce(
           (SELECT c.data FROM holdfast_checkpoints AS c WHERE r.value & 255 = 0 AND c.tenant_id = :tenant
            AND c.thread_id = :thread AND c.namespace = :namespace AND c.version = chosen.version - (r.value >> 8)),
           (SELECT b.data FROM holdfast_checkpoint_blocks AS b WHERE b.tenant_id = :tenant AND b.thread_id = :thread
            AND b.namespace = :namespace AND b.version = chosen.version - (r.value >> 8) AND b.ordinal = r.value & 255)
       ) END AS data,
       NULL AS task_id, NULL AS channel, NULL AS idx, NULL AS task_path
FROM chosen
LEFT JOIN json_each(chosen.refs) AS r;

-- name: with_writes
-- The end of a statement that loads a checkpoint together with its pending writes, a row for each; no statement of its
-- own.
UNION ALL
SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, w.data, w.task_id, w.channel, w.idx,
       w.task_path
FROM chosen
CROSS JOIN holdfast_checkpoint_writes AS w
WHERE w.tenant_id = :tenant AND w.thread_id = :thread AND w.namespace = :namespace AND w.key = chosen.key;

-- name: list_checkpoints
-- Newest first, by the primary key backwards; states are not touched.
SELECT version, parent_version, created_at, step, node, key, metadata
FROM holdfast_checkpoints
WHERE tenant_id = :tenant AND thread_id = :thread AND namespace = :namespace AND version < :before
  AND NOT EXISTS (SELECT 1 FROM holdfast_checkpoint_expiry AS e WHERE e.tenant_id = :tenant AND e.thread_id = :thread
                  AND e.expires_at <= :now)
ORDER BY version DESC
LIMIT :limit;

-- name: list_manifests
-- What listed checkpoints need; :versions is a JSON array.
SELECT c.version, c.manifest, c.refs, t.stamp, t.counter
FROM holdfast_checkpoints AS c
LEFT JOIN holdfast_checkpoint_threads AS t ON t.tenant_id = :tenant AND t.thread_id = :thread
     AND t.namespace = :namespace AND t.latest = c.version
WHERE c.tenant_id = :tenant AND c.thread_id = :thread AND c.namespace = :namespace
  AND c.version IN (SELECT w.value FROM json_each(:versions) AS w)
ORDER BY c.version DESC
LIMIT :limit;

-- name: list_blocks
-- Then their blocks, each once, though neighbours have most in common; :places are pairs of version and ordinal. They
-- are put in order before their bytes are read: sorting afterwards would move all of them.
SELECT p.version, p.ordinal, coalesce(
    (SELECT c.data FROM holdfast_checkpoints AS c WHERE p.ordinal = 0 AND c.tenant_id = :tenant
     AND c.thread_id = :thread AND c.namespace = :namespace AND c.version = p.version),
    (SELECT b.data FROM holdfast_checkpoint_blocks AS b WHERE b.tenant_id = :tenant AND b.thread_id = :thread
     AND b.namespace = :namespace AND b.version = p.version AND b.ordinal = p.ordinal)
) AS data
FROM (SELECT json_extract(w.value, '$[0]') AS version, json_extract(w.value, '$[1]') AS ordinal
      FROM json_each(:places) AS w
      ORDER BY version, ordinal
      LIMIT :limit) AS p;

-- name: writes_of
-- And their pending writes, in the order of pending_writes for each; :keys is a JSON array.
SELECT w.key, w.task_id, w.channel, w.idx, w.task_path, w.data
FROM holdfast_checkpoint_writes AS w
WHERE w.tenant_id = :tenant AND w.thread_id = :thread AND w.namespace = :namespace
  AND w.key IN (SELECT k.value FROM json_each(:keys) AS k)
ORDER BY w.key, w.task_path, w.task_id, w.idx;

-- name: list_threads
-- By the primary key in order: namespaces of one thread lie together, so grouping needs no sort. With :filtered the
-- metadata of the latest checkpoint in the namespace '' comes along; :cutoff may be NULL.
SELECT t.thread_id, min(t.created_at) AS created_at, max(t.updated_at) AS updated_at,
       json_group_object(t.namespace, t.latest) AS versions,
       CASE WHEN :filtered THEN (
           SELECT c.metadata FROM holdfast_checkpoint_threads AS h
           JOIN holdfast_checkpoints AS c ON c.tenant_id = :tenant AND c.thread_id = h.thread_id AND c.namespace = ''
                AND c.version = h.latest
           WHERE h.tenant_id = :tenant AND h.thread_id = t.thread_id AND h.namespace = '') END AS metadata
FROM holdfast_checkpoint_threads AS t
WHERE t.tenant_id = :tenant AND t.thread_id > :after
GROUP BY t.thread_id
HAVING (max(t.expires_at) IS NULL OR max(t.expires_at) > :now)
   AND (:cutoff IS NULL OR max(t.updated_at) < :cutoff)
ORDER BY t.thread_id
LIMIT :limit;

-- name: list_user_threads
-- hot: threads with a checkpoint that names the user, by the index of users; the latest one must be among these.
SELECT t.thread_id, min(t.created_at) AS created_at, max(t.updated_at) AS updated_at,
       json_group_object(t.namespace, t.latest) AS versions
FROM holdfast_checkpoint_threads AS t
WHERE t.tenant_id = :tenant AND t.thread_id > :after AND t.thread_id IN (
    SELECT c.thread_id FROM holdfast_checkpoints AS c
    JOIN holdfast_checkpoint_threads AS h ON h.tenant_id = :tenant AND h.thread_id = c.thread_id AND h.namespace = ''
        AND h.latest = c.version
    WHERE c.tenant_id = :tenant AND c.namespace = '' AND c.thread_id > :after
      AND CASE WHEN json_valid(c.metadata) THEN c.metadata ->> '$.user_id' END = :user
      AND json_type(c.metadata, '$.user_id') = 'text')
GROUP BY t.thread_id
HAVING max(t.expires_at) IS NULL OR max(t.expires_at) > :now
ORDER BY t.thread_id
LIMIT :limit;

-- name: lock_head
-- A new stamp, so that no save goes on from pieces that it believes stored.
UPDATE holdfast_checkpoint_threads
SET stamp = :stamp
WHERE tenant_id = :tenant AND thread_id = :thread AND namespace = :namespace;

-- name: lock_live_head
-- As lock_head, unless the thread has expired.
UPDATE holdfast_checkpoint_threads
SET stamp = :stamp
WHERE tenant_id = :tenant AND thread_id = :thread AND namespace = :namespace
  AND NOT EXISTS (SELECT 1 FROM holdfast_checkpoint_expiry AS e WHERE e.tenant_id = :tenant AND e.thread_id = :thread
                  AND e.expires_at <= :now);

-- name: lock_known_head
-- As lock_live_head, if nobody saved or deleted since :base; then what is known of the thread stays true.
UPDATE holdfast_checkpoint_threads
SET stamp = :stamp
WHERE tenant_id = :tenant AND thread_id = :thread AND namespace = :namespace AND stamp = :base
  AND NOT EXISTS (SELECT 1 FROM holdfast_checkpoint_expiry AS e WHERE e.tenant_id = :tenant AND e.thread_id = :thread
                  AND e.expires_at <= :now);

-- name: move_blocks
-- First of a deletion of :versions: a block beside one of them that another needs moves to the table of blocks.
WITH needed (version, ordinal) AS MATERIALIZED (
    SELECT c.version - (r.value >> 8), r.value & 255
    FROM holdfast_checkpoints AS c, json_each(c.refs) AS r
    WHERE c.tenant_id = :tenant AND c.thread_id = :thread AND c.namespace = :namespace
      AND c.version NOT IN (SELECT value FROM json_each(:versions))
)
INSERT INTO holdfast_checkpoint_blocks (tenant_id, thread_id, namespace, version, ordinal, data)
SELECT g.tenant_id, g.thread_id, g.namespace, g.version, 0, g.data
FROM holdfast_checkpoints AS g
WHERE g.tenant_id = :tenant AND g.thread_id = :thread AND g.namespace = :namespace
  AND g.version IN (SELECT value FROM json_each(:versions)) AND g.data IS NOT NULL
  AND (g.version, 0) IN (SELECT version, ordinal FROM needed)
RETURNING length(data) AS size;

-- name: drop_blocks
-- Then the blocks that only :versions need.
WITH needed (version, ordinal) AS MATERIALIZED (
    SELECT c.version - (r.value >> 8), r.value & 255
    FROM holdfast_checkpoints AS c, json_each(c.refs) AS r
    WHERE c.tenant_id = :tenant AND c.thread_id = :thread AND c.namespace = :namespace
      AND c.version NOT IN (SELECT value FROM json_each(:versions))
), held (version, ordinal) AS MATERIALIZED (
    SELECT DISTINCT g.version - (r.value >> 8), r.value & 255
    FROM holdfast_checkpoints AS g, json_each(g.refs) AS r
    WHERE g.tenant_id = :tenant AND g.thread_id = :thread AND g.namespace = :namespace
      AND g.version IN (SELECT value FROM json_each(:versions))
)
DELETE FROM holdfast_checkpoint_blocks
WHERE tenant_id = :tenant AND thread_id = :thread AND namespace = :namespace
  AND (version, ordinal) IN (SELECT version, ordinal FROM held EXCEPT SELECT version, ordinal FROM needed)
RETURNING length(data) AS size;

-- name: drop_writes
-- Then their pending writes.
DELETE FROM holdfast_checkpoint_writes
WHERE tenant_id = :tenant AND thread_id = :thread AND namespace = :namespace AND key IN (
    SELECT g.key FROM holdfast_checkpoints AS g
    WHERE g.tenant_id = :tenant AND g.thread_id = :thread AND g.namespace = :namespace
      AND g.version IN (SELECT value FROM json_each(:versions))
);

-- name: drop_checkpoints
-- Last, themselves.
DELETE FROM holdfast_checkpoints
WHERE tenant_id = :tenant AND thread_id = :thread AND namespace = :namespace
  AND version IN (SELECT value FROM json_each(:versions))
RETURNING length(manifest) + length(refs) + coalesce(length(data), 0) AS size;

-- name: refresh_head
-- The latest is what is left; the counter stays, so that no version is ever given twice.
UPDATE holdfast_checkpoint_threads AS t
SET latest = coalesce((SELECT max(c.version) FROM holdfast_checkpoints AS c WHERE c.tenant_id = :tenant
                       AND c.thread_id = :thread AND c.namespace = :namespace), 0)
WHERE t.tenant_id = :tenant AND t.thread_id = :thread AND t.namespace = :namespace;

-- name: lock_thread
-- SQLite's write lock is held already; PostgreSQL's form of it locks the heads.
SELECT namespace, updated_at, coalesce(expires_at <= :now, false) AS expired
FROM holdfast_checkpoint_threads
WHERE tenant_id = :tenant AND thread_id = :thread
ORDER BY namespace;

-- name: mark_thread
-- A stamp of this delete's own says which heads it holds.
UPDATE holdfast_checkpoint_threads
SET stamp = :stamp
WHERE tenant_id = :tenant AND thread_id = :thread;

-- name: delete_thread_checkpoints
-- Under the heads that mark_thread marked.
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
-- Last.
DELETE FROM holdfast_checkpoint_threads
WHERE tenant_id = :tenant AND thread_id = :thread AND stamp = :stamp;

-- name: renew_head
-- A namespace that nobody saved to for longer than its thread's time to live, while others kept the thread alive.
UPDATE holdfast_checkpoint_threads AS t
SET expires_at = e.expires_at
FROM holdfast_checkpoint_expiry AS e
WHERE t.tenant_id = :tenant AND t.thread_id = :thread AND t.namespace = :namespace
  AND e.tenant_id = :tenant AND e.thread_id = :thread AND e.expires_at > :now;

-- name: touch_head
-- The head that pending writes refer to; nothing changes when it is there, and no row matches when the thread has expired.
INSERT INTO holdfast_checkpoint_threads (tenant_id, thread_id, namespace, latest, counter, stamp, created_at,
                                         updated_at, ttl, expires_at)
SELECT :tenant, :thread, :namespace, 0, 0, :stamp, :now, :now, max(o.ttl), max(o.expires_at)
FROM holdfast_checkpoint_threads AS o
WHERE o.tenant_id = :tenant AND o.thread_id = :thread AND o.expires_at IS NOT NULL
HAVING max(o.expires_at) IS NULL OR max(o.expires_at) > :now
ON CONFLICT (tenant_id, thread_id, namespace) DO UPDATE SET stamp = stamp;

-- name: put_write
-- hot
-- The first of an index stays, of a negative one the last.
INSERT INTO holdfast_checkpoint_writes AS w (tenant_id, thread_id, namespace, key, task_id, idx, task_path, channel,
                                             data)
VALUES (:tenant, :thread, :namespace, :key, :task, :idx, :path, :channel, :data)
ON CONFLICT (tenant_id, thread_id, namespace, key, task_id, idx) DO UPDATE
SET channel = excluded.channel, data = excluded.data, task_path = excluded.task_path
WHERE w.idx < 0;

-- name: pending_writes
-- hot
-- By the primary key as far as the checkpoint; the writes of one step are few.
SELECT w.task_id, w.channel, w.idx, w.task_path, w.data
FROM holdfast_checkpoint_writes AS w
WHERE w.tenant_id = :tenant AND w.thread_id = :thread AND w.namespace = :namespace AND w.key = :key
  AND NOT EXISTS (SELECT 1 FROM holdfast_checkpoint_expiry AS e WHERE e.tenant_id = :tenant AND e.thread_id = :thread
                  AND e.expires_at <= :now)
ORDER BY w.task_path, w.task_id, w.idx;

-- name: find_checkpoint
-- The latest of a step or a node; both may be NULL, and then any will do.
SELECT version, parent_version, created_at, step, node, key, metadata
FROM holdfast_checkpoints
WHERE tenant_id = :tenant AND thread_id = :thread AND namespace = :namespace
  AND (:step IS NULL OR step = :step)
  AND (:node IS NULL OR node = :node)
  AND NOT EXISTS (SELECT 1 FROM holdfast_checkpoint_expiry AS e WHERE e.tenant_id = :tenant AND e.thread_id = :thread
                  AND e.expires_at <= :now)
ORDER BY version DESC
LIMIT 1;

-- name: history
-- From parent to parent, always to a lower version, so that no circle can be; ends as soon as :limit are found.
WITH RECURSIVE chain (version, found) AS (
    SELECT c.version, c.version < :before
    FROM holdfast_checkpoints AS c
    WHERE c.tenant_id = :tenant AND c.thread_id = :thread AND c.namespace = :namespace
      AND c.version = (SELECT max(l.version) FROM holdfast_checkpoints AS l WHERE l.tenant_id = :tenant
                       AND l.thread_id = :thread AND l.namespace = :namespace)
      AND NOT EXISTS (SELECT 1 FROM holdfast_checkpoint_expiry AS e WHERE e.tenant_id = :tenant
                      AND e.thread_id = :thread AND e.expires_at <= :now)
    UNION ALL
    SELECT p.version, chain.found + (p.version < :before)
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

-- name: fork_head
-- First of a fork: nothing is written where the new thread has had a checkpoint in that namespace, or has expired.
INSERT INTO holdfast_checkpoint_threads AS t (tenant_id, thread_id, namespace, latest, counter, stamp, created_at,
                                              updated_at, ttl, expires_at)
SELECT :tenant, :new_thread, :namespace, 1, 1, :stamp, :now, :now, max(o.ttl),
       coalesce(:now + max(o.ttl), max(o.expires_at))
FROM holdfast_checkpoint_threads AS o
WHERE o.tenant_id = :tenant AND o.thread_id = :new_thread AND o.expires_at IS NOT NULL
HAVING max(o.expires_at) IS NULL OR max(o.expires_at) > :now
ON CONFLICT (tenant_id, thread_id, namespace) DO UPDATE
SET latest = 1, counter = 1, stamp = excluded.stamp, updated_at = excluded.updated_at, expires_at = excluded.expires_at
WHERE t.counter = 0;

-- name: fork_blocks
-- Those that the checkpoint refers to, as many versions before the new one as they were before the old.
INSERT INTO holdfast_checkpoint_blocks (tenant_id, thread_id, namespace, version, ordinal, data)
SELECT :tenant, :new_thread, :namespace, 1 - (found.ref >> 8), found.ref & 255, found.data
FROM (
    SELECT r.value AS ref, coalesce(
        (SELECT c.data FROM holdfast_checkpoints AS c WHERE r.value & 255 = 0 AND c.tenant_id = :tenant
         AND c.thread_id = :thread AND c.namespace = :namespace AND c.version = :version - (r.value >> 8)),
        (SELECT b.data FROM holdfast_checkpoint_blocks AS b WHERE b.tenant_id = :tenant AND b.thread_id = :thread
         AND b.namespace = :namespace AND b.version = :version - (r.value >> 8) AND b.ordinal = r.value & 255)
    ) AS data
    FROM holdfast_checkpoints AS s, json_each(s.refs) AS r
    WHERE s.tenant_id = :tenant AND s.thread_id = :thread AND s.namespace = :namespace AND s.version = :version
      AND r.value <> 0
) AS found
WHERE found.data IS NOT NULL;

-- name: fork_checkpoint
-- Last of a fork.
INSERT INTO holdfast_checkpoints (tenant_id, thread_id, namespace, version, created_at, step, node, metadata,
                                  manifest, refs, data, key)
SELECT c.tenant_id, :new_thread, c.namespace, 1, c.created_at, c.step, c.node, c.metadata, c.manifest, c.refs, c.data,
       c.key
FROM holdfast_checkpoints AS c
WHERE c.tenant_id = :tenant AND c.thread_id = :thread AND c.namespace = :namespace AND c.version = :version
  AND NOT EXISTS (SELECT 1 FROM holdfast_checkpoint_expiry AS e WHERE e.tenant_id = :tenant AND e.thread_id = :thread
                  AND e.expires_at <= :now);

-- name: copy_heads
-- First of a copy; none where the new thread is there or the old one has expired.
INSERT INTO holdfast_checkpoint_threads (tenant_id, thread_id, namespace, latest, counter, parent, stamp, created_at,
                                         updated_at)
SELECT t.tenant_id, :new_thread, t.namespace, t.latest, t.counter, t.parent, :stamp, :now, :now
FROM holdfast_checkpoint_threads AS t
WHERE t.tenant_id = :tenant AND t.thread_id = :thread
  AND NOT EXISTS (SELECT 1 FROM holdfast_checkpoint_threads AS o WHERE o.tenant_id = :tenant
                  AND o.thread_id = :new_thread)
  AND NOT EXISTS (SELECT 1 FROM holdfast_checkpoint_expiry AS e WHERE e.tenant_id = :tenant AND e.thread_id = :thread
                  AND e.expires_at <= :now);

-- name: copy_blocks
-- Of every namespace.
INSERT INTO holdfast_checkpoint_blocks (tenant_id, thread_id, namespace, version, ordinal, data)
SELECT tenant_id, :new_thread, namespace, version, ordinal, data
FROM holdfast_checkpoint_blocks
WHERE tenant_id = :tenant AND thread_id = :thread;

-- name: copy_writes
-- Of every namespace.
INSERT INTO holdfast_checkpoint_writes (tenant_id, thread_id, namespace, key, task_id, idx, task_path, channel, data)
SELECT tenant_id, :new_thread, namespace, key, task_id, idx, task_path, channel, data
FROM holdfast_checkpoint_writes
WHERE tenant_id = :tenant AND thread_id = :thread;

-- name: copy_checkpoints
-- Of every namespace.
INSERT INTO holdfast_checkpoints (tenant_id, thread_id, namespace, version, parent_version, created_at, step, node,
                                  metadata, manifest, refs, data, key)
SELECT tenant_id, :new_thread, namespace, version, parent_version, created_at, step, node, metadata, manifest, refs,
       data, key
FROM holdfast_checkpoints
WHERE tenant_id = :tenant AND thread_id = :thread;

-- name: inspect_copy
-- Why a copy made nothing: the old thread is there, so the new one is too, or neither counts.
SELECT EXISTS (SELECT 1 FROM holdfast_checkpoint_threads AS t WHERE t.tenant_id = :tenant AND t.thread_id = :thread)
       AND NOT EXISTS (SELECT 1 FROM holdfast_checkpoint_expiry AS e WHERE e.tenant_id = :tenant
                       AND e.thread_id = :thread AND e.expires_at <= :now) AS found;

-- name: load_manifest
-- What a rewind goes back to, and the version that it will be.
SELECT c.step, c.node, c.key, c.metadata, c.manifest, c.refs, t.counter + 1 AS next
FROM holdfast_checkpoints AS c
JOIN holdfast_checkpoint_threads AS t ON t.tenant_id = :tenant AND t.thread_id = :thread AND t.namespace = :namespace
WHERE c.tenant_id = :tenant AND c.thread_id = :thread AND c.namespace = :namespace AND c.version = :version
  AND NOT EXISTS (SELECT 1 FROM holdfast_checkpoint_expiry AS e WHERE e.tenant_id = :tenant AND e.thread_id = :thread
                  AND e.expires_at <= :now);

-- name: rewind_head
-- Then the head moves on.
UPDATE holdfast_checkpoint_threads AS t
SET latest = t.counter + 1, counter = t.counter + 1, parent = nullif(t.latest, 0), stamp = :stamp, updated_at = :now,
    expires_at = coalesce(:now + t.ttl, t.expires_at)
WHERE t.tenant_id = :tenant AND t.thread_id = :thread AND t.namespace = :namespace;

-- name: rewind
-- Then the checkpoint, whose blocks are there.
INSERT INTO holdfast_checkpoints (tenant_id, thread_id, namespace, version, parent_version, created_at, step, node,
                                  metadata, manifest, refs)
VALUES (:tenant, :thread, :namespace, :next, :version, :now, :step, :node, :metadata, :manifest, :refs);

-- name: list_namespaces
-- By the primary key; :after is the last one seen, :start whether there is none yet.
SELECT t.namespace
FROM holdfast_checkpoint_threads AS t
WHERE t.tenant_id = :tenant AND t.thread_id = :thread AND (:start OR t.namespace > :after)
ORDER BY t.namespace
LIMIT :limit;

-- name: list_prunable
-- The heads that have a checkpoint to prune; the conditions are those of list_victims.
SELECT t.thread_id, t.namespace
FROM holdfast_checkpoint_threads AS t
WHERE t.tenant_id = :tenant AND (t.thread_id, t.namespace) > (:after_thread, :after_namespace)
  AND EXISTS (
    SELECT 1 FROM holdfast_checkpoints AS c
    WHERE c.tenant_id = :tenant AND c.thread_id = t.thread_id AND c.namespace = t.namespace
      AND c.version < (SELECT min(n.version) FROM (
          SELECT l.version FROM holdfast_checkpoints AS l
          WHERE l.tenant_id = :tenant AND l.thread_id = t.thread_id AND l.namespace = t.namespace
          ORDER BY l.version DESC LIMIT :keep_last) AS n)
      AND (:cutoff IS NULL OR c.created_at < :cutoff)
      AND NOT (:keep_tagged AND json_type(c.metadata, '$.tag') IS NOT NULL)
  )
ORDER BY t.thread_id, t.namespace
LIMIT :limit;

-- name: list_victims
-- Never one of the newest :keep_last, nor the latest among them.
SELECT o.version
FROM holdfast_checkpoints AS o
WHERE o.tenant_id = :tenant AND o.thread_id = :thread AND o.namespace = :namespace
  AND o.version < (SELECT min(n.version) FROM (
      SELECT l.version FROM holdfast_checkpoints AS l
      WHERE l.tenant_id = :tenant AND l.thread_id = :thread AND l.namespace = :namespace
      ORDER BY l.version DESC LIMIT :keep_last) AS n)
  AND (:cutoff IS NULL OR o.created_at < :cutoff)
  AND NOT (:keep_tagged AND json_type(o.metadata, '$.tag') IS NOT NULL)
ORDER BY o.version
LIMIT :batch;

-- name: set_ttl
-- Of every namespace; NULL for both: the thread stays for ever. Not of a thread that has expired.
UPDATE holdfast_checkpoint_threads
SET ttl = CASE WHEN :sliding THEN :ttl END, expires_at = :now + :ttl
WHERE tenant_id = :tenant AND thread_id = :thread
  AND NOT EXISTS (SELECT 1 FROM holdfast_checkpoint_expiry AS e WHERE e.tenant_id = :tenant AND e.thread_id = :thread
                  AND e.expires_at <= :now);

-- name: list_expired
-- By the index on expiry, which has only threads with a time to live.
SELECT e.thread_id
FROM holdfast_checkpoint_expiry AS e
WHERE e.tenant_id = :tenant AND e.expires_at <= :now
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
