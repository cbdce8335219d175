-- As on PostgreSQL. Times are microseconds.

-- name: append_event
-- hot: one INSERT.
INSERT INTO holdfast_events
    (tenant_id, at, id, retention, kind, service, name, value, level, message, correlation, tags)
VALUES (:tenant, :at, :id, :retention, :kind, :service, :name, :value, :level, :message, :correlation, :tags);

-- name: lock_event_chain
-- hot: within the transaction of the append, which holds the write lock.
INSERT INTO holdfast_event_chains (tenant_id, chain, seq, hash)
VALUES (:tenant, :chain, 0, :genesis)
ON CONFLICT (tenant_id, chain) DO UPDATE SET seq = seq
RETURNING seq, hash;

-- name: move_event_chain
-- hot: the head follows what was appended.
UPDATE holdfast_event_chains SET seq = :seq, hash = :hash WHERE tenant_id = :tenant AND chain = :chain;

-- name: event_chain
-- hot: the newest entry of a chain.
SELECT chain, seq, hash FROM holdfast_event_chains WHERE tenant_id = :tenant AND chain = :chain;

-- name: list_event_chains
-- hot: the chains of a tenant, by name.
SELECT chain, seq, hash FROM holdfast_event_chains
WHERE tenant_id = :tenant AND chain > :after
ORDER BY chain LIMIT :limit;

-- name: list_chained_events
-- hot: the entries of a chain in its order, a page at a time.
SELECT e.tenant_id, e.at, e.id, e.retention, e.kind, e.service, e.name, e.value, e.level, e.message, e.correlation,
    e.tags, e.chain, e.chain_seq, e.hash
FROM holdfast_events AS e
WHERE e.tenant_id = :tenant AND e.chain = :chain AND e.chain_seq > :after
ORDER BY e.chain_seq LIMIT :limit;

-- name: list_newest_events
-- hot: by the unique key, backwards.
SELECT e.at, e.id, e.retention, e.kind, e.service, e.name, e.value, e.level, e.message, e.correlation, e.tags, e.samples,
    e.valued, e.low, e.high, e.chain, e.chain_seq, e.hash
FROM holdfast_events AS e
WHERE e.tenant_id = :tenant AND e.at >= :since AND e.at < :until AND /* filter */ true
ORDER BY e.at DESC, e.id DESC LIMIT :limit;

-- name: list_oldest_events
-- hot: by the unique key.
SELECT e.at, e.id, e.retention, e.kind, e.service, e.name, e.value, e.level, e.message, e.correlation, e.tags, e.samples,
    e.valued, e.low, e.high, e.chain, e.chain_seq, e.hash
FROM holdfast_events AS e
WHERE e.tenant_id = :tenant AND e.at >= :since AND e.at < :until AND /* filter */ true
ORDER BY e.at, e.id LIMIT :limit;

-- name: list_user_events
-- hot: by the index of users.
SELECT e.at, e.id, e.retention, e.kind, e.service, e.name, e.value, e.level, e.message, e.correlation, e.tags, e.samples,
    e.valued, e.low, e.high, e.chain, e.chain_seq, e.hash
FROM holdfast_events AS e
WHERE e.tenant_id = :tenant
    AND CASE WHEN json_valid(e.tags) THEN e.tags ->> '$.user_id' END = :user
    AND json_type(e.tags, '$.user_id') = 'text'
    AND (:after_time IS NULL OR (e.at, e.id) < (:after_time, :after_id))
ORDER BY e.at DESC, e.id DESC LIMIT :limit;

-- name: sum_events
-- hot: a rolled-up event counts as those that it stands for. No event lies before the origin.
SELECT /* groups */ NULL, e.at - (e.at - :origin) % :bucket AS start,
    SUM(COALESCE(e.samples, 1)) AS events, COUNT(e.samples) AS rolled,
    SUM(CASE WHEN e.samples IS NOT NULL THEN e.valued WHEN e.value IS NOT NULL THEN 1 END) AS valued,
    SUM(e.value) AS total, MIN(COALESCE(e.low, e.value)) AS low, MAX(COALESCE(e.high, e.value)) AS high,
    NULL AS percentiles
FROM holdfast_events AS e
WHERE e.tenant_id = :tenant AND e.at >= :since AND e.at < :until AND /* filter */ true
GROUP BY /* listed */ start
LIMIT :limit;

-- name: rank_events
-- What PostgreSQL's percentile_cont takes: of the n sorted values those on either side of the place p * (n - 1), between
-- which the percentile lies in proportion.
WITH chosen AS MATERIALIZED (
    SELECT /* groups */ NULL, e.at - (e.at - :origin) % :bucket AS start, e.value AS value
    FROM holdfast_events AS e
    WHERE e.tenant_id = :tenant AND e.at >= :since AND e.at < :until AND e.value IS NOT NULL AND e.samples IS NULL
        AND /* filter */ true
), ranked AS (
    SELECT *, ROW_NUMBER() OVER (PARTITION BY /* listed */ start ORDER BY value) - 1 AS place,
        COUNT(*) OVER (PARTITION BY /* listed */ start) - 1 AS last
    FROM chosen
), sides AS (
    SELECT ranked.*, f.key AS fraction, f.value * last AS exact, CAST(f.value * last AS INTEGER) AS below
    FROM ranked CROSS JOIN json_each(:fractions) AS f
    WHERE place - CAST(f.value * last AS INTEGER) IN (0, 1)
)
SELECT /* listed */ start, fraction, MIN(value) + (MAX(exact) - MAX(below)) * (
    MAX(CASE WHEN place = below + (exact > below) THEN value END) - MIN(value)
) AS percentile
FROM sides
GROUP BY /* listed */ start, fraction;

-- name: event_horizon
-- The newest event of all; there is one writer.
SELECT COALESCE(MAX(seq), 0) AS xmin, 0 AS xmax, :now AS moment FROM sqlite_sequence WHERE name = 'holdfast_events';

-- name: list_written_events
-- hot: by the number that each got as it was written.
SELECT e.at, e.id, e.retention, e.kind, e.service, e.name, e.value, e.level, e.message, e.correlation, e.tags, e.samples,
    e.valued, e.low, e.high, e.chain, e.chain_seq, e.hash, e.seq AS place
FROM holdfast_events AS e
WHERE e.tenant_id = :tenant AND e.seq > :after_xid AND e.samples IS NULL AND /* filter */ true
ORDER BY e.seq LIMIT :limit;

-- name: list_event_partitions
-- The one table has the file's size; its rows are counted by their numbers.
SELECT 'holdfast_events' AS name, COALESCE((SELECT MAX(seq) - MIN(seq) + 1 FROM holdfast_events), 0) AS events,
    p.page_count * s.page_size AS bytes
FROM pragma_page_count AS p, pragma_page_size AS s
ORDER BY name LIMIT :limit;

-- name: count_due_events
-- hot: what a step would take.
SELECT COUNT(*) AS events FROM holdfast_events AS e
WHERE e.tenant_id = :tenant AND e.retention = :source AND e.at >= :since AND e.at < :until AND /* filter */ true;

-- name: last_due_event
-- hot: where a full batch ends.
SELECT e.at, e.id FROM holdfast_events AS e
WHERE e.tenant_id = :tenant AND e.retention = :source AND e.at >= :since AND e.at < :until AND /* filter */ true
ORDER BY e.at, e.id LIMIT 1 OFFSET :limit;

-- name: roll_up_events
-- hot: the events of a batch, which are deleted after it in the same transaction. The other tags are taken away from the
-- text, because a number that is written anew loses digits.
INSERT INTO holdfast_events
    (tenant_id, at, id, retention, kind, service, name, level, tags, value, samples, valued, low, high)
SELECT :tenant, e.at - (e.at - :origin) % :length AS bucket, :first_id + ROW_NUMBER() OVER (), :target, e.kind, e.service,
    e.name, e.level,
    CASE WHEN :kept_tags IS NULL THEN e.tags ELSE NULLIF(json_patch(e.tags, (
        SELECT json_group_object(json_each.key, NULL) FROM json_each(e.tags)
        WHERE json_each.key NOT IN (SELECT value FROM json_each(:kept_tags))
    )), '{}') END AS series, SUM(e.value), SUM(COALESCE(e.samples, 1)),
    SUM(CASE WHEN e.samples IS NOT NULL THEN e.valued WHEN e.value IS NOT NULL THEN 1 ELSE 0 END),
    MIN(COALESCE(e.low, e.value)), MAX(COALESCE(e.high, e.value))
FROM holdfast_events AS e
WHERE e.tenant_id = :tenant AND e.retention = :source AND e.at >= :since AND e.at < :until
    AND (e.at, e.id) <= (:last_at, :last_id) AND /* filter */ true
GROUP BY bucket, e.kind, e.service, e.name, e.level, series;

-- name: delete_events
-- hot: the events of a batch.
DELETE FROM holdfast_events AS e
WHERE e.tenant_id = :tenant AND e.retention = :source AND e.at >= :since AND e.at < :until
    AND (e.at, e.id) <= (:last_at, :last_id) AND /* filter */ true;

-- name: erase_events
-- Those of a user that were read before, by the primary key.
DELETE FROM holdfast_events
WHERE tenant_id = :tenant AND at >= :low AND at <= :high AND chain IS NULL
    AND (at, id) IN (SELECT json_each.value ->> 0, json_each.value ->> 1 FROM json_each(:places));
