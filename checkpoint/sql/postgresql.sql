-- The statements of DatabaseCheckpointer on PostgreSQL. Who locks what is told in _async/sql.py.

-- name: save_none
-- The next version, whose pieces are all stored. No upsert: where the thread went meanwhile, nothing may be saved.
WITH head AS (
    UPDATE holdfast_checkpoint_threads AS t
    SET latest = t.counter + 1, counter = t.counter + 1, parent = nullif(t.latest, 0), stamp = :stamp, updated_at = :now
    WHERE t.tenant_id = :tenant AND t.thread_id = :thread AND t.namespace = :namespace AND t.stamp = :base
    RETURNING t.counter, t.parent
)
INSERT INTO holdfast_checkpoints (tenant_id, thread_id, namespace, version, parent_version, created_at, step, node,
                                  metadata, manifest, refs)
SELECT :tenant, :thread, :namespace, head.counter, coalesce(CAST(:parent AS bigint), head.parent), :timestamp,
       :step, :node, CAST(:metadata AS jsonb), CAST(:manifest AS bytea), CAST(:refs AS bytea)
FROM head
RETURNING version, parent_version;

-- name: save_one
-- The commonest save: the next version, with one new piece. Apart from save_many, which takes some 60 µs longer.
WITH head AS (
    UPDATE holdfast_checkpoint_threads AS t
    SET latest = t.counter + 1, counter = t.counter + 1, parent = nullif(t.latest, 0), stamp = :stamp, updated_at = :now
    WHERE t.tenant_id = :tenant AND t.thread_id = :thread AND t.namespace = :namespace AND t.stamp = :base
    RETURNING t.counter, t.parent
), piece AS (
    INSERT INTO holdfast_checkpoint_pieces (tenant_id, thread_id, namespace, hash, data)
    SELECT :tenant, :thread, :namespace, CAST(:hash AS bytea), CAST(:data AS bytea)
    FROM head
    ON CONFLICT DO NOTHING
)
INSERT INTO holdfast_checkpoints (tenant_id, thread_id, namespace, version, parent_version, created_at, step, node,
                                  metadata, manifest, refs)
SELECT :tenant, :thread, :namespace, head.counter, coalesce(CAST(:parent AS bigint), head.parent), :timestamp,
       :step, :node, CAST(:metadata AS jsonb), CAST(:manifest AS bytea), CAST(:refs AS bytea)
FROM head
RETURNING version, parent_version;

-- name: save_many
-- Any number of new pieces, cut out of two byte strings, which cost no escaping; :base and :expected may be NULL.
WITH head AS (
    UPDATE holdfast_checkpoint_threads AS t
    SET latest = greatest(t.latest, coalesce(CAST(:version AS bigint), t.counter + 1)),
        counter = greatest(t.counter, coalesce(CAST(:version AS bigint), t.counter + 1)),
        parent = CASE WHEN coalesce(CAST(:version AS bigint), t.counter + 1) > t.latest THEN nullif(t.latest, 0) END,
        stamp = :stamp, updated_at = :now
    WHERE t.tenant_id = :tenant AND t.thread_id = :thread AND t.namespace = :namespace
      AND (CAST(:base AS bigint) IS NULL OR t.stamp = CAST(:base AS bigint))
      AND (CAST(:expected AS bigint) IS NULL OR t.latest = CAST(:expected AS bigint))
      AND NOT EXISTS (SELECT FROM holdfast_checkpoints AS c WHERE c.tenant_id = :tenant AND c.thread_id = :thread
                      AND c.namespace = :namespace AND c.version = CAST(:version AS bigint))
    RETURNING t.counter, t.parent
), piece AS (
    INSERT INTO holdfast_checkpoint_pieces (tenant_id, thread_id, namespace, hash, data)
    SELECT :tenant, :thread, :namespace, substring(CAST(:hashes AS bytea) FROM CAST(16 * p.i - 15 AS integer) FOR 16),
           substring(CAST(:data AS bytea) FROM p.start FOR p.size)
    FROM head, unnest(CAST(CAST(:starts AS text) AS integer[]), CAST(CAST(:sizes AS text) AS integer[]))
               WITH ORDINALITY AS p (start, size, i)
    ON CONFLICT DO NOTHING
)
INSERT INTO holdfast_checkpoints (tenant_id, thread_id, namespace, version, parent_version, created_at, step, node,
                                  metadata, manifest, refs)
SELECT :tenant, :thread, :namespace, coalesce(CAST(:version AS bigint), head.counter),
       coalesce(CAST(:parent AS bigint), head.parent), :timestamp, :step, :node, CAST(:metadata AS jsonb),
       CAST(:manifest AS bytea), CAST(:refs AS bytea)
FROM head
RETURNING version, parent_version;

-- name: save_first
-- A save that sends every piece and makes the thread where it is missing; :expected is NULL or 0.
WITH head AS (
    INSERT INTO holdfast_checkpoint_threads AS t (tenant_id, thread_id, namespace, latest, counter, parent, stamp,
                                                  created_at, updated_at)
    VALUES (:tenant, :thread, :namespace, coalesce(CAST(:version AS bigint), 1), coalesce(CAST(:version AS bigint), 1),
            NULL, :stamp, :now, :now)
    ON CONFLICT (tenant_id, thread_id, namespace) DO UPDATE
    SET latest = greatest(t.latest, coalesce(CAST(:version AS bigint), t.counter + 1)),
        counter = greatest(t.counter, coalesce(CAST(:version AS bigint), t.counter + 1)),
        parent = CASE WHEN coalesce(CAST(:version AS bigint), t.counter + 1) > t.latest THEN nullif(t.latest, 0) END,
        stamp = excluded.stamp, updated_at = excluded.updated_at
    WHERE (CAST(:expected AS bigint) IS NULL OR t.latest = CAST(:expected AS bigint))
      AND NOT EXISTS (SELECT FROM holdfast_checkpoints AS c WHERE c.tenant_id = :tenant AND c.thread_id = :thread
                      AND c.namespace = :namespace AND c.version = CAST(:version AS bigint))
    RETURNING t.counter, t.parent
), piece AS (
    INSERT INTO holdfast_checkpoint_pieces (tenant_id, thread_id, namespace, hash, data)
    SELECT :tenant, :thread, :namespace, substring(CAST(:hashes AS bytea) FROM CAST(16 * p.i - 15 AS integer) FOR 16),
           substring(CAST(:data AS bytea) FROM p.start FOR p.size)
    FROM head, unnest(CAST(CAST(:starts AS text) AS integer[]), CAST(CAST(:sizes AS text) AS integer[]))
               WITH ORDINALITY AS p (start, size, i)
    ON CONFLICT DO NOTHING
)
INSERT INTO holdfast_checkpoints (tenant_id, thread_id, namespace, version, parent_version, created_at, step, node,
                                  metadata, manifest, refs)
SELECT :tenant, :thread, :namespace, coalesce(CAST(:version AS bigint), head.counter),
       coalesce(CAST(:parent AS bigint), head.parent), :timestamp, :step, :node, CAST(:metadata AS jsonb),
       CAST(:manifest AS bytea), CAST(:refs AS bytea)
FROM head
RETURNING version, parent_version;

-- name: inspect
-- Why a save changed nothing; asked only then.
SELECT coalesce(max(t.latest), 0) AS latest,
       EXISTS (SELECT FROM holdfast_checkpoints AS c WHERE c.tenant_id = :tenant AND c.thread_id = :thread
               AND c.namespace = :namespace AND c.version = CAST(:version AS bigint)) AS taken
FROM holdfast_checkpoint_threads AS t
WHERE t.tenant_id = :tenant AND t.thread_id = :thread AND t.namespace = :namespace;

-- name: load_latest
-- One row: the checkpoint, its pieces end to end, their sizes (-1: missing), and the thread's head for the next save.
-- Each piece by a subquery of its own, for a join may read every piece of the thread to hash them.
WITH chosen AS (
    SELECT c.version, c.parent_version, c.created_at, c.step, c.node, c.metadata, c.manifest, c.refs
    FROM holdfast_checkpoints AS c
    WHERE c.tenant_id = :tenant AND c.thread_id = :thread AND c.namespace = :namespace
    ORDER BY c.version DESC
    LIMIT 1
)
SELECT chosen.*, body.data, body.sizes,
       (SELECT t.stamp FROM holdfast_checkpoint_threads AS t WHERE t.tenant_id = :tenant AND t.thread_id = :thread
        AND t.namespace = :namespace AND t.latest = chosen.version) AS stamp
FROM chosen, LATERAL (
    SELECT string_agg(piece.data, '' ORDER BY piece.i) AS data,
           string_agg(CAST(coalesce(length(piece.data), -1) AS text), ',' ORDER BY piece.i) AS sizes
    FROM (
        SELECT n.i, (SELECT p.data FROM holdfast_checkpoint_pieces AS p WHERE p.tenant_id = :tenant
                     AND p.thread_id = :thread AND p.namespace = :namespace
                     AND p.hash = substring(chosen.refs FROM n.i FOR 16)) AS data
        FROM generate_series(1, length(chosen.refs), 16) AS n (i)
        ORDER BY n.i
        OFFSET 0
    ) AS piece
) AS body;

-- name: load_version
-- As load_latest, for a version that is named; apart, so that either has the plan of its own key.
WITH chosen AS (
    SELECT c.version, c.parent_version, c.created_at, c.step, c.node, c.metadata, c.manifest, c.refs
    FROM holdfast_checkpoints AS c
    WHERE c.tenant_id = :tenant AND c.thread_id = :thread AND c.namespace = :namespace AND c.version = :version
    LIMIT 1
)
SELECT chosen.*, body.data, body.sizes,
       (SELECT t.stamp FROM holdfast_checkpoint_threads AS t WHERE t.tenant_id = :tenant AND t.thread_id = :thread
        AND t.namespace = :namespace AND t.latest = chosen.version) AS stamp
FROM chosen, LATERAL (
    SELECT string_agg(piece.data, '' ORDER BY piece.i) AS data,
           string_agg(CAST(coalesce(length(piece.data), -1) AS text), ',' ORDER BY piece.i) AS sizes
    FROM (
        SELECT n.i, (SELECT p.data FROM holdfast_checkpoint_pieces AS p WHERE p.tenant_id = :tenant
                     AND p.thread_id = :thread AND p.namespace = :namespace
                     AND p.hash = substring(chosen.refs FROM n.i FOR 16)) AS data
        FROM generate_series(1, length(chosen.refs), 16) AS n (i)
        ORDER BY n.i
        OFFSET 0
    ) AS piece
) AS body;

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
       jsonb_object_agg(namespace, latest) AS versions
FROM holdfast_checkpoint_threads
WHERE tenant_id = :tenant AND thread_id > :after
GROUP BY thread_id
ORDER BY thread_id
LIMIT :limit;

-- name: lock_head
-- The lock that saves take, and a new stamp, so that no save goes on from pieces that it believes stored.
UPDATE holdfast_checkpoint_threads
SET stamp = :stamp
WHERE tenant_id = :tenant AND thread_id = :thread AND namespace = :namespace;

-- name: delete_checkpoint
-- After lock_head; returns what the checkpoint was made of, for delete_piece.
DELETE FROM holdfast_checkpoints
WHERE tenant_id = :tenant AND thread_id = :thread AND namespace = :namespace AND version = :version
RETURNING refs;

-- name: delete_piece
-- Unless a checkpoint that is kept needs it. A match across two hashes would only keep a piece for longer.
DELETE FROM holdfast_checkpoint_pieces AS p
WHERE p.tenant_id = :tenant AND p.thread_id = :thread AND p.namespace = :namespace AND p.hash = :hash
  AND NOT EXISTS (SELECT FROM holdfast_checkpoints AS c WHERE c.tenant_id = :tenant AND c.thread_id = :thread
                  AND c.namespace = :namespace AND position(p.hash IN c.refs) > 0);

-- name: refresh_head
-- The latest is what is left; the counter stays, so that no version is ever given twice.
UPDATE holdfast_checkpoint_threads AS t
SET latest = coalesce((SELECT max(c.version) FROM holdfast_checkpoints AS c WHERE c.tenant_id = :tenant
                       AND c.thread_id = :thread AND c.namespace = :namespace), 0)
WHERE t.tenant_id = :tenant AND t.thread_id = :thread AND t.namespace = :namespace;

-- name: lock_thread
-- The heads of all namespaces, in order, so that two deletes don't wait for each other in a circle.
SELECT namespace FROM holdfast_checkpoint_threads
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

-- name: delete_thread_pieces
-- As delete_thread_checkpoints.
DELETE FROM holdfast_checkpoint_pieces
WHERE tenant_id = :tenant AND thread_id = :thread AND namespace IN (
    SELECT namespace FROM holdfast_checkpoint_threads
    WHERE tenant_id = :tenant AND thread_id = :thread AND stamp = :stamp
);

-- name: delete_thread_heads
-- Last; whoever waits for the lock finds the thread gone.
DELETE FROM holdfast_checkpoint_threads
WHERE tenant_id = :tenant AND thread_id = :thread AND stamp = :stamp;
