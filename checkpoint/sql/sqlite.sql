-- The statements of DatabaseCheckpointer on SQLite, where one transaction writes at a time.

-- name: advance_head
-- A save on a thread that exists; :base, :expected and :version may be NULL.
UPDATE holdfast_checkpoint_threads AS t
SET latest = max(t.latest, coalesce(:version, t.counter + 1)),
    counter = max(t.counter, coalesce(:version, t.counter + 1)),
    parent = CASE WHEN coalesce(:version, t.counter + 1) > t.latest THEN nullif(t.latest, 0) END,
    stamp = :stamp, updated_at = :now
WHERE t.tenant_id = :tenant AND t.thread_id = :thread AND t.namespace = :namespace
  AND (:base IS NULL OR t.stamp = :base)
  AND (:expected IS NULL OR t.latest = :expected)
  AND NOT EXISTS (SELECT 1 FROM holdfast_checkpoints AS c WHERE c.tenant_id = :tenant AND c.thread_id = :thread
                  AND c.namespace = :namespace AND c.version = :version)
RETURNING counter, parent;

-- name: make_head
-- A save that sends every piece and makes the thread where it is missing; :expected is NULL or 0.
INSERT INTO holdfast_checkpoint_threads AS t (tenant_id, thread_id, namespace, latest, counter, parent, stamp,
                                              created_at, updated_at)
VALUES (:tenant, :thread, :namespace, coalesce(:version, 1), coalesce(:version, 1), NULL, :stamp, :now, :now)
ON CONFLICT (tenant_id, thread_id, namespace) DO UPDATE
SET latest = max(t.latest, coalesce(:version, t.counter + 1)),
    counter = max(t.counter, coalesce(:version, t.counter + 1)),
    parent = CASE WHEN coalesce(:version, t.counter + 1) > t.latest THEN nullif(t.latest, 0) END,
    stamp = excluded.stamp, updated_at = excluded.updated_at
WHERE (:expected IS NULL OR t.latest = :expected)
  AND NOT EXISTS (SELECT 1 FROM holdfast_checkpoints AS c WHERE c.tenant_id = :tenant AND c.thread_id = :thread
                  AND c.namespace = :namespace AND c.version = :version)
RETURNING counter, parent;

-- name: save_piece
-- A piece that is there already has this content.
INSERT INTO holdfast_checkpoint_pieces (tenant_id, thread_id, namespace, hash, data)
VALUES (:tenant, :thread, :namespace, :hash, :data)
ON CONFLICT DO NOTHING;

-- name: save_checkpoint
-- Last, in the transaction that advanced the head and holds SQLite's one write lock.
INSERT INTO holdfast_checkpoints (tenant_id, thread_id, namespace, version, parent_version, created_at, step, node,
                                  metadata, manifest, refs)
VALUES (:tenant, :thread, :namespace, :version, :parent, :timestamp, :step, :node, :metadata, :manifest, :refs);

-- name: inspect
-- Why a save changed nothing; asked only then.
SELECT coalesce(max(t.latest), 0) AS latest,
       EXISTS (SELECT 1 FROM holdfast_checkpoints AS c WHERE c.tenant_id = :tenant AND c.thread_id = :thread
               AND c.namespace = :namespace AND c.version = :version) AS taken
FROM holdfast_checkpoint_threads AS t
WHERE t.tenant_id = :tenant AND t.thread_id = :thread AND t.namespace = :namespace;

-- name: load_latest
-- A row for each piece in the order of refs (data NULL: missing), or one without a place when there are none.
WITH RECURSIVE chosen AS MATERIALIZED (
    SELECT c.version, c.parent_version, c.created_at, c.step, c.node, c.metadata, c.manifest, c.refs
    FROM holdfast_checkpoints AS c
    WHERE c.tenant_id = :tenant AND c.thread_id = :thread AND c.namespace = :namespace
    ORDER BY c.version DESC
    LIMIT 1
), place (i) AS (
    SELECT 1 FROM chosen WHERE length(chosen.refs) > 0
    UNION ALL
    SELECT place.i + 16 FROM place, chosen WHERE place.i + 16 < length(chosen.refs)
)
SELECT chosen.*, place.i AS place, p.data,
       (SELECT t.stamp FROM holdfast_checkpoint_threads AS t WHERE t.tenant_id = :tenant AND t.thread_id = :thread
        AND t.namespace = :namespace AND t.latest = chosen.version) AS stamp
FROM chosen
LEFT JOIN place ON true
LEFT JOIN holdfast_checkpoint_pieces AS p ON p.tenant_id = :tenant AND p.thread_id = :thread
      AND p.namespace = :namespace AND p.hash = substr(chosen.refs, place.i, 16)
ORDER BY place.i;

-- name: load_version
-- As load_latest, for a version that is named.
WITH RECURSIVE chosen AS MATERIALIZED (
    SELECT c.version, c.parent_version, c.created_at, c.step, c.node, c.metadata, c.manifest, c.refs
    FROM holdfast_checkpoints AS c
    WHERE c.tenant_id = :tenant AND c.thread_id = :thread AND c.namespace = :namespace AND c.version = :version
    LIMIT 1
), place (i) AS (
    SELECT 1 FROM chosen WHERE length(chosen.refs) > 0
    UNION ALL
    SELECT place.i + 16 FROM place, chosen WHERE place.i + 16 < length(chosen.refs)
)
SELECT chosen.*, place.i AS place, p.data,
       (SELECT t.stamp FROM holdfast_checkpoint_threads AS t WHERE t.tenant_id = :tenant AND t.thread_id = :thread
        AND t.namespace = :namespace AND t.latest = chosen.version) AS stamp
FROM chosen
LEFT JOIN place ON true
LEFT JOIN holdfast_checkpoint_pieces AS p ON p.tenant_id = :tenant AND p.thread_id = :thread
      AND p.namespace = :namespace AND p.hash = substr(chosen.refs, place.i, 16)
ORDER BY place.i;

-- name: list_checkpoints
-- Newest first, by the primary key backwards; states are not touched.
SELECT version, parent_version, created_at, step, node, metadata
FROM holdfast_checkpoints
WHERE tenant_id = :tenant AND thread_id = :thread AND namespace = :namespace AND version < :before
ORDER BY version DESC
LIMIT :limit;

-- name: list_threads
-- By the primary key in order: namespaces of one thread lie together, so grouping needs no sort.
SELECT thread_id, min(created_at) AS created_at, max(updated_at) AS updated_at,
       json_group_object(namespace, latest) AS versions
FROM holdfast_checkpoint_threads
WHERE tenant_id = :tenant AND thread_id > :after
GROUP BY thread_id
ORDER BY thread_id
LIMIT :limit;

-- name: lock_head
-- A new stamp, so that no save goes on from pieces that it believes stored.
UPDATE holdfast_checkpoint_threads
SET stamp = :stamp
WHERE tenant_id = :tenant AND thread_id = :thread AND namespace = :namespace;

-- name: delete_checkpoint
-- Returns what the checkpoint was made of, for delete_piece.
DELETE FROM holdfast_checkpoints
WHERE tenant_id = :tenant AND thread_id = :thread AND namespace = :namespace AND version = :version
RETURNING refs;

-- name: delete_piece
-- Unless a checkpoint that is kept needs it. A match across two hashes would only keep a piece for longer.
DELETE FROM holdfast_checkpoint_pieces AS p
WHERE p.tenant_id = :tenant AND p.thread_id = :thread AND p.namespace = :namespace AND p.hash = :hash
  AND NOT EXISTS (SELECT 1 FROM holdfast_checkpoints AS c WHERE c.tenant_id = :tenant AND c.thread_id = :thread
                  AND c.namespace = :namespace AND instr(c.refs, :hash) > 0);

-- name: refresh_head
-- The latest is what is left; the counter stays, so that no version is ever given twice.
UPDATE holdfast_checkpoint_threads AS t
SET latest = coalesce((SELECT max(c.version) FROM holdfast_checkpoints AS c WHERE c.tenant_id = :tenant
                       AND c.thread_id = :thread AND c.namespace = :namespace), 0)
WHERE t.tenant_id = :tenant AND t.thread_id = :thread AND t.namespace = :namespace;

-- name: lock_thread
-- SQLite's write lock is held already; PostgreSQL's form of it locks the heads.
SELECT namespace FROM holdfast_checkpoint_threads
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

-- name: delete_thread_pieces
-- As delete_thread_checkpoints.
DELETE FROM holdfast_checkpoint_pieces
WHERE tenant_id = :tenant AND thread_id = :thread AND namespace IN (
    SELECT namespace FROM holdfast_checkpoint_threads
    WHERE tenant_id = :tenant AND thread_id = :thread AND stamp = :stamp
);

-- name: delete_thread_heads
-- Last.
DELETE FROM holdfast_checkpoint_threads
WHERE tenant_id = :tenant AND thread_id = :thread AND stamp = :stamp;
