-- The statements that read events are planned for their very values, so that only the partitions of their window are
-- looked at. Behind /* filter */ comes a condition on e whose values are parameters; behind /* groups */ and /* listed */
-- what sums are apart by; behind /* percentiles */ those that were asked for.

-- name: append_event
-- hot: one INSERT, whose partition is there already.
INSERT INTO holdfast_events
    (tenant_id, at, id, retention, kind, service, name, value, level, message, correlation, tags)
VALUES (:tenant, :at, :id, :retention, :kind, :service, :name, :value, :level, :message, :correlation,
    CAST(:tags AS jsonb));

-- name: append_audit
-- hot: takes the chain's next number under its row lock and hashes on the server, in one statement. Where two append at
-- once the second takes the number after the first's, so the order of the chain is that of the commits.
WITH head AS (
    INSERT INTO holdfast_event_chains AS c (tenant_id, chain, seq, hash)
    VALUES (:tenant, :chain, 1, sha256(CAST(:genesis AS bytea) || int8send(1) || CAST(:content AS bytea)))
    ON CONFLICT (tenant_id, chain) DO UPDATE SET
        seq = c.seq + 1, hash = sha256(c.hash || int8send(c.seq + 1) || CAST(:content AS bytea))
    RETURNING c.seq, c.hash
)
INSERT INTO holdfast_events (
    tenant_id, at, id, retention, kind, service, name, value, level, message, correlation, tags, chain, chain_seq, hash
)
SELECT :tenant, :at, :id, :retention, :kind, :service, :name, CAST(:value AS double precision), :level, :message,
    :correlation, CAST(:tags AS jsonb), :chain, head.seq, head.hash
FROM head
RETURNING chain_seq, hash;

-- name: lock_event_chain
-- hot: for a batch, whose hashes the client makes. A new chain gets a head that stands before its first entry.
INSERT INTO holdfast_event_chains AS c (tenant_id, chain, seq, hash)
VALUES (:tenant, :chain, 0, :genesis)
ON CONFLICT (tenant_id, chain) DO UPDATE SET seq = c.seq
RETURNING c.seq, c.hash;

-- name: move_event_chain
-- hot: the head follows the batch, while its row is still locked.
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
-- The entries of a chain in its order, a page at a time. Two may claim one number where somebody meddled.
SELECT e.tenant_id, e.at, e.id, e.retention, e.kind, e.service, e.name, e.value, e.level, e.message, e.correlation,
    e.tags, e.chain, e.chain_seq, e.hash
FROM holdfast_events AS e
WHERE e.tenant_id = :tenant AND e.retention = 'kept' AND e.chain = :chain AND e.chain_seq > :after
ORDER BY e.chain_seq, e.id LIMIT :limit;

-- name: make_event_partition
-- Whether the partition that holds a moment was missing, and was made.
SELECT holdfast_event_partition(:retention, :moment) AS made;

-- name: list_newest_events
-- By the primary key, backwards, partition by partition.
SELECT e.at, e.id, e.retention, e.kind, e.service, e.name, e.value, e.level, e.message, e.correlation, e.tags, e.samples,
    e.valued, e.low, e.high, e.chain, e.chain_seq, e.hash
FROM holdfast_events AS e
WHERE e.tenant_id = :tenant AND e.at >= :since AND e.at < :until AND /* filter */ true
ORDER BY e.at DESC, e.id DESC LIMIT :limit;

-- name: list_oldest_events
-- By the primary key.
SELECT e.at, e.id, e.retention, e.kind, e.service, e.name, e.value, e.level, e.message, e.correlation, e.tags, e.samples,
    e.valued, e.low, e.high, e.chain, e.chain_seq, e.hash
FROM holdfast_events AS e
WHERE e.tenant_id = :tenant AND e.at >= :since AND e.at < :until AND /* filter */ true
ORDER BY e.at, e.id LIMIT :limit;

-- name: list_user_events
-- By the index of users, in every partition; the hash finds them, the name itself is compared.
SELECT e.at, e.id, e.retention, e.kind, e.service, e.name, e.value, e.level, e.message, e.correlation, e.tags, e.samples,
    e.valued, e.low, e.high, e.chain, e.chain_seq, e.hash
FROM holdfast_events AS e
WHERE e.tenant_id = :tenant
    AND hashtextextended((e.tags ->> 'user_id') COLLATE "C", 0) = hashtextextended(CAST(:user AS text) COLLATE "C", 0)
    AND e.tags -> 'user_id' = to_jsonb(CAST(:user AS text))
    AND (CAST(:after_time AS timestamptz) IS NULL
        OR (e.at, e.id) < (CAST(:after_time AS timestamptz), CAST(:after_id AS bigint)))
ORDER BY e.at DESC, e.id DESC LIMIT :limit;

-- name: sum_events
-- A rolled-up event counts as those that it stands for.
SELECT /* groups */ NULL, date_bin(CAST(:bucket AS interval), e.at, CAST(:origin AS timestamptz)) AS start,
    SUM(COALESCE(e.samples, 1)) AS events, COUNT(e.samples) AS rolled,
    SUM(CASE WHEN e.samples IS NOT NULL THEN e.valued WHEN e.value IS NOT NULL THEN 1 END) AS valued,
    SUM(e.value) AS total, MIN(COALESCE(e.low, e.value)) AS low, MAX(COALESCE(e.high, e.value)) AS high,
    /* percentiles */ NULL AS percentiles
FROM holdfast_events AS e
WHERE e.tenant_id = :tenant AND e.at >= :since AND e.at < :until AND /* filter */ true
GROUP BY /* listed */ start
LIMIT :limit;

-- name: event_horizon
-- Below xmin every transaction is over. What begins after this has a number from xmax on.
SELECT CAST(CAST(pg_snapshot_xmin(s) AS text) AS bigint) AS xmin, CAST(CAST(pg_snapshot_xmax(s) AS text) AS bigint) AS xmax,
    statement_timestamp() AS moment
FROM pg_current_snapshot() AS s;

-- name: list_written_events
-- In the order of the transactions, and of those only that none comes in front of any more. The horizon comes along also
-- without an event.
SELECT e.*, CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint) AS xmin,
    CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint) AS xmax, statement_timestamp() AS moment
FROM (SELECT 1) AS one
LEFT JOIN LATERAL (
    SELECT e.at, e.id, e.retention, e.kind, e.service, e.name, e.value, e.level, e.message, e.correlation, e.tags,
        e.samples, e.valued, e.low, e.high, e.chain, e.chain_seq, e.hash, CAST(CAST(e.xid AS text) AS bigint) AS place,
        e.xid
    FROM holdfast_events AS e
    WHERE e.tenant_id = :tenant AND e.at >= :floor AND e.samples IS NULL
        AND (e.xid, e.id) > (CAST(CAST(:after_xid AS text) AS xid8), CAST(:after_id AS bigint))
        AND e.xid < pg_snapshot_xmin(pg_current_snapshot()) AND /* filter */ true
    ORDER BY e.xid, e.id LIMIT :limit
) AS e ON true
ORDER BY e.xid, e.id LIMIT :limit;

-- name: list_event_partitions
-- Each with the size of its table and indexes, and the number of its rows as it was last counted.
SELECT c.relname AS name, CAST(greatest(c.reltuples, 0) AS bigint) AS events, pg_total_relation_size(c.oid) AS bytes
FROM pg_inherits AS i
JOIN pg_class AS c ON c.oid = i.inhrelid
WHERE i.inhparent IN (
    to_regclass('holdfast_events_raw'), to_regclass('holdfast_events_aggregated'),
    to_regclass('holdfast_events_downsampled'), to_regclass('holdfast_events_kept')
)
ORDER BY c.relname LIMIT :limit;

-- name: count_due_events
-- What a step would take. Of a partition that is locked it is asked directly: who drops one locks the table above first.
SELECT COUNT(*) AS events FROM /* leaf */ holdfast_events AS e
WHERE e.tenant_id = :tenant AND e.retention = :source AND e.at >= :since AND e.at < :until AND /* filter */ true;

-- name: has_other_events
-- Whether a partition holds what a step doesn't take: another tenant's, or of another kind.
SELECT EXISTS (SELECT 1 FROM /* leaf */ holdfast_events AS e WHERE e.tenant_id < :tenant)
    OR EXISTS (SELECT 1 FROM /* leaf */ holdfast_events AS e WHERE e.tenant_id > :tenant)
    OR EXISTS (SELECT 1 FROM /* leaf */ holdfast_events AS e WHERE NOT (/* filter */ true)) AS others;

-- name: roll_up_partition
-- A whole partition, which is emptied after it in the same transaction.
INSERT INTO holdfast_events
    (tenant_id, at, id, retention, kind, service, name, level, tags, value, samples, valued, low, high)
SELECT :tenant, date_bin(CAST(:length AS interval), e.at, CAST(:origin AS timestamptz)) AS bucket,
    CAST(:first_id AS bigint) + row_number() OVER (), :target, e.kind, e.service, e.name, e.level, t.tags, SUM(e.value),
    SUM(COALESCE(e.samples, 1)),
    COALESCE(SUM(CASE WHEN e.samples IS NOT NULL THEN e.valued WHEN e.value IS NOT NULL THEN 1 END), 0),
    MIN(COALESCE(e.low, e.value)), MAX(COALESCE(e.high, e.value))
FROM /* leaf */ holdfast_events AS e
CROSS JOIN LATERAL (SELECT CASE WHEN CAST(:kept_tags AS text[]) IS NULL THEN e.tags ELSE (
    SELECT jsonb_object_agg(j.key, j.value) FROM jsonb_each(e.tags) AS j WHERE j.key = ANY(CAST(:kept_tags AS text[]))
) END AS tags) AS t
WHERE e.tenant_id = :tenant AND e.at >= :since AND e.at < :until
GROUP BY bucket, e.kind, e.service, e.name, e.level, t.tags;

-- name: roll_up_events
-- A batch: each event is deleted and counted in one statement, so that it is counted once, whoever runs beside or dies.
-- An hour that two batches share gets two events, which sums take together.
WITH due AS MATERIALIZED (
    SELECT e.at, e.id FROM holdfast_events AS e
    WHERE e.tenant_id = :tenant AND e.retention = :source AND e.at >= :since AND e.at < :until AND /* filter */ true
    ORDER BY e.at, e.id LIMIT :limit FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM holdfast_events AS e USING due AS d
    WHERE e.tenant_id = :tenant AND e.retention = :source AND e.at = d.at AND e.id = d.id AND e.at >= :since
        AND e.at < :until
    RETURNING e.*
), made AS (
    INSERT INTO holdfast_events
        (tenant_id, at, id, retention, kind, service, name, level, tags, value, samples, valued, low, high)
    SELECT :tenant, date_bin(CAST(:length AS interval), e.at, CAST(:origin AS timestamptz)) AS bucket,
        CAST(:first_id AS bigint) + row_number() OVER (), :target, e.kind, e.service, e.name, e.level, t.tags,
        SUM(e.value), SUM(COALESCE(e.samples, 1)),
        COALESCE(SUM(CASE WHEN e.samples IS NOT NULL THEN e.valued WHEN e.value IS NOT NULL THEN 1 END), 0),
        MIN(COALESCE(e.low, e.value)), MAX(COALESCE(e.high, e.value))
    FROM gone AS e
    CROSS JOIN LATERAL (SELECT CASE WHEN CAST(:kept_tags AS text[]) IS NULL THEN e.tags ELSE (
        SELECT jsonb_object_agg(j.key, j.value) FROM jsonb_each(e.tags) AS j
        WHERE j.key = ANY(CAST(:kept_tags AS text[]))
    ) END AS tags) AS t
    GROUP BY bucket, e.kind, e.service, e.name, e.level, t.tags
    RETURNING 1
)
SELECT (SELECT COUNT(*) FROM gone) AS events, (SELECT COUNT(*) FROM made) AS made;

-- name: delete_events
-- A batch of what is over.
WITH due AS MATERIALIZED (
    SELECT e.at, e.id FROM holdfast_events AS e
    WHERE e.tenant_id = :tenant AND e.retention = :source AND e.at >= :since AND e.at < :until AND /* filter */ true
    ORDER BY e.at, e.id LIMIT :limit FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM holdfast_events AS e USING due AS d
    WHERE e.tenant_id = :tenant AND e.retention = :source AND e.at = d.at AND e.id = d.id AND e.at >= :since
        AND e.at < :until
    RETURNING 1
)
SELECT COUNT(*) AS events, 0 AS made FROM gone;

-- name: limit_event_lock
-- A partition in use is left for the next run.
SELECT set_config('lock_timeout', :limit, true);

-- name: is_event_partition
-- Another run may have dropped it.
SELECT to_regclass(:name) IS NOT NULL AS present;

-- name: is_empty_partition
-- Something may have come since it was emptied.
SELECT NOT EXISTS (SELECT 1 FROM /* leaf */ holdfast_events AS e) AS empty;

-- name: erase_events
-- Those of a user that were read before, by the primary key; the bounds leave out the partitions of other times.
DELETE FROM holdfast_events AS e
USING unnest(CAST(:times AS timestamptz[]), CAST(:ids AS bigint[])) AS g (at, id)
WHERE e.tenant_id = :tenant AND e.at = g.at AND e.id = g.id AND e.at >= :low AND e.at <= :high AND e.chain IS NULL;
