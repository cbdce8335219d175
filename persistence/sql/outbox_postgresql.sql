-- The statements of Outbox and Relay on PostgreSQL.

-- name: put_in_outbox
-- hot: one statement for any number of items. The keys' rows are locked in their order, so that two that put the same
-- keys never wait for each other; a key that has nothing left is due at once, one that waits stays as it is.
WITH given AS (
    SELECT key, payload, place, row_number() OVER (PARTITION BY key ORDER BY place) AS nth,
           count(*) OVER (PARTITION BY key) AS all_of_it
    FROM unnest(CAST(:keys AS text[]), CAST(:payloads AS bytea[])) WITH ORDINALITY AS g (key, payload, place)
), heads AS (
    INSERT INTO holdfast_outbox_keys AS k (tenant_id, topic, key, last)
    SELECT CAST(:tenant AS text), CAST(:topic AS text), key, count(*) FROM given GROUP BY key ORDER BY key COLLATE "C"
    ON CONFLICT (tenant_id, topic, key) DO UPDATE
    SET last = k.last + excluded.last, due_at = CASE WHEN k.done = k.last THEN clock_timestamp() ELSE k.due_at END
    RETURNING key, last
), put AS (
    INSERT INTO holdfast_outbox (tenant_id, topic, key, number, payload)
    SELECT :tenant, :topic, key, last - all_of_it + nth, payload FROM given JOIN heads USING (key)
)
SELECT heads.last - given.all_of_it + given.nth AS number
FROM given JOIN heads USING (key)
ORDER BY given.place;

-- name: claim_from_outbox
-- hot: keys that are due, the longest first, and their first items, in one round trip. What another has locked is
-- passed over. The fence tells this claim from a later one.
WITH claimed AS (
    UPDATE holdfast_outbox_keys AS k
    SET due_at = clock_timestamp() + CAST(:lease AS float8) * INTERVAL '1 second', fence = k.fence + 1
    FROM (SELECT key FROM holdfast_outbox_keys
          WHERE tenant_id = :tenant AND topic = :topic AND done < last AND due_at <= clock_timestamp()
          ORDER BY due_at LIMIT :keys FOR UPDATE SKIP LOCKED) AS due
    WHERE k.tenant_id = :tenant AND k.topic = :topic AND k.key = due.key
    RETURNING k.key, k.fence, k.done, k.attempts
)
SELECT c.key, c.fence, c.done, CASE WHEN i.number = c.done + 1 THEN c.attempts ELSE 0 END AS attempts,
       i.number, i.payload, i.created_at
FROM claimed AS c CROSS JOIN LATERAL (
    SELECT number, payload, created_at FROM holdfast_outbox
    WHERE tenant_id = :tenant AND topic = :topic AND key = c.key AND number > c.done
    ORDER BY number LIMIT :each) AS i
ORDER BY c.key, i.number;

-- name: settle_outbox
-- Only where the claim still holds: a relay that was away for longer than its lease changes nothing.
WITH given AS (
    SELECT * FROM unnest(CAST(:keys AS text[]), CAST(:fences AS bigint[]), CAST(:dones AS bigint[]),
                         CAST(:attempts AS integer[]), CAST(:delays AS float8[]), CAST(:deads AS bigint[]),
                         CAST(:errors AS text[]))
        AS g (key, fence, done, attempts, delay, dead, error)
), kept AS (
    UPDATE holdfast_outbox_keys AS k
    SET done = g.done, attempts = CASE WHEN g.dead IS NULL THEN g.attempts ELSE 0 END,
        due_at = clock_timestamp() + g.delay * INTERVAL '1 second'
    FROM given AS g
    WHERE k.tenant_id = :tenant AND k.topic = :topic AND k.key = g.key AND k.fence = g.fence
    RETURNING k.key, k.done
), dead AS (
    INSERT INTO holdfast_outbox_dead (tenant_id, topic, key, number, payload, created_at, attempts, error)
    SELECT i.tenant_id, i.topic, i.key, i.number, i.payload, i.created_at, g.attempts, g.error
    FROM given AS g JOIN kept USING (key)
         JOIN holdfast_outbox AS i ON i.tenant_id = :tenant AND i.topic = :topic AND i.key = g.key AND i.number = g.dead
), gone AS (
    DELETE FROM holdfast_outbox AS i USING kept
    WHERE i.tenant_id = :tenant AND i.topic = :topic AND i.key = kept.key AND i.number <= kept.done
)
SELECT key FROM kept ORDER BY key;

-- name: outbox_status
-- Counts of what waits; the delivered is not there any more.
SELECT (SELECT count(*) FROM holdfast_outbox WHERE tenant_id = :tenant AND topic = :topic) AS pending,
       (SELECT count(*) FROM holdfast_outbox_keys WHERE tenant_id = :tenant AND topic = :topic AND done < last) AS keys,
       (SELECT count(*) FROM holdfast_outbox_dead WHERE tenant_id = :tenant AND topic = :topic) AS dead,
       (SELECT min(created_at) FROM holdfast_outbox WHERE tenant_id = :tenant AND topic = :topic) AS oldest;

-- name: outbox_next_due
-- How long until a key is due, in seconds; below 0 for one that is, NULL where nothing waits.
SELECT CAST(extract(epoch FROM min(due_at) - clock_timestamp()) AS float8) AS wait FROM holdfast_outbox_keys
WHERE tenant_id = :tenant AND topic = :topic AND done < last;

-- name: list_dead_letters
-- By key and number, from a cursor of both.
SELECT key, number, payload, created_at, died_at, attempts, error FROM holdfast_outbox_dead
WHERE tenant_id = :tenant AND topic = :topic
      AND (key, number) > (CAST(:after_key AS text) COLLATE "C", CAST(:after_number AS bigint))
ORDER BY key, number LIMIT :limit;

-- name: delete_dead_letter
-- Returned, so that who puts it again has what it was.
DELETE FROM holdfast_outbox_dead WHERE tenant_id = :tenant AND topic = :topic AND key = :key AND number = :number
RETURNING payload;

-- name: forget_outbox_keys
-- Keys that have nothing left, not even a dead letter, whose number would be given again. Whoever puts to one meanwhile
-- has its row locked, and it is passed over.
DELETE FROM holdfast_outbox_keys AS k
USING (SELECT key FROM holdfast_outbox_keys
       WHERE tenant_id = :tenant AND topic = :topic AND done = last
             AND due_at < clock_timestamp() - CAST(:age AS float8) * INTERVAL '1 second'
             AND NOT EXISTS (SELECT FROM holdfast_outbox_dead AS d
                             WHERE d.tenant_id = :tenant AND d.topic = :topic AND d.key = holdfast_outbox_keys.key)
       ORDER BY key LIMIT :limit FOR UPDATE SKIP LOCKED) AS idle
WHERE k.tenant_id = :tenant AND k.topic = :topic AND k.key = idle.key;
