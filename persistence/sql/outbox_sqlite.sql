-- The statements of Outbox and Relay on SQLite. What is one statement on PostgreSQL is one batch here.

-- name: put_in_outbox
-- One item: the key's row first.
INSERT INTO holdfast_outbox_keys (tenant_id, topic, key, last, due_at, fence)
VALUES (:tenant, :topic, :key, 1, :now, :now)
ON CONFLICT (tenant_id, topic, key) DO UPDATE
SET last = last + 1, due_at = CASE WHEN done = last THEN excluded.due_at ELSE due_at END;

-- name: put_item_in_outbox
-- hot: its number is the one that the key's row has just taken.
INSERT INTO holdfast_outbox (tenant_id, topic, key, number, payload, created_at)
SELECT tenant_id, topic, key, last, :payload, :now FROM holdfast_outbox_keys
WHERE tenant_id = :tenant AND topic = :topic AND key = :key
RETURNING number;

-- name: claim_from_outbox
-- hot: keys that are due, the longest first. The second statement of the batch reads their items.
UPDATE holdfast_outbox_keys SET due_at = :until, fence = fence + 1
WHERE tenant_id = :tenant AND topic = :topic AND key IN (
    SELECT key FROM holdfast_outbox_keys
    WHERE tenant_id = :tenant AND topic = :topic AND done < last AND due_at <= :now
    ORDER BY due_at LIMIT :keys)
RETURNING key, fence, done, attempts;

-- name: claimed_items
-- hot: the first items of the claimed keys.
SELECT k.key, k.fence, k.done, CASE WHEN i.number = k.done + 1 THEN k.attempts ELSE 0 END AS attempts,
       i.number, i.payload, i.created_at
FROM json_each(:claimed)
     JOIN holdfast_outbox_keys AS k ON k.tenant_id = :tenant AND k.topic = :topic AND k.key = json_each.value
     JOIN holdfast_outbox AS i ON i.tenant_id = :tenant AND i.topic = :topic AND i.key = k.key
          AND i.number > k.done AND i.number <= k.done + :each
ORDER BY k.key, i.number;

-- name: settle_outbox_key
-- Only where the claim still holds; the two statements that follow look at the fence again.
UPDATE holdfast_outbox_keys
SET done = :done, attempts = CASE WHEN :dead IS NULL THEN :attempts ELSE 0 END, due_at = :due
WHERE tenant_id = :tenant AND topic = :topic AND key = :key AND fence = :fence
RETURNING key;

-- name: bury_outbox_item
-- What was given up.
INSERT INTO holdfast_outbox_dead (tenant_id, topic, key, number, payload, created_at, died_at, attempts, error)
SELECT i.tenant_id, i.topic, i.key, i.number, i.payload, i.created_at, :now, :attempts, :error
FROM holdfast_outbox AS i
     JOIN holdfast_outbox_keys AS k ON k.tenant_id = :tenant AND k.topic = :topic AND k.key = :key AND k.fence = :fence
WHERE i.tenant_id = :tenant AND i.topic = :topic AND i.key = :key AND i.number = :dead;

-- name: drop_outbox_items
-- What is over, up to the key's own mark.
DELETE FROM holdfast_outbox
WHERE tenant_id = :tenant AND topic = :topic AND key = :key AND number <= :done
      AND EXISTS (SELECT 1 FROM holdfast_outbox_keys AS k
                  WHERE k.tenant_id = :tenant AND k.topic = :topic AND k.key = :key AND k.fence = :fence);

-- name: outbox_status
-- Counts of what waits; the delivered is not there any more.
SELECT (SELECT count(*) FROM holdfast_outbox WHERE tenant_id = :tenant AND topic = :topic) AS pending,
       (SELECT count(*) FROM holdfast_outbox_keys WHERE tenant_id = :tenant AND topic = :topic AND done < last) AS keys,
       (SELECT count(*) FROM holdfast_outbox_dead WHERE tenant_id = :tenant AND topic = :topic) AS dead,
       (SELECT min(created_at) FROM holdfast_outbox WHERE tenant_id = :tenant AND topic = :topic) AS oldest;

-- name: outbox_next_due
-- How long until a key is due, in seconds; below 0 for one that is, NULL where nothing waits.
SELECT (min(due_at) - :now) / 1000000.0 AS wait FROM holdfast_outbox_keys
WHERE tenant_id = :tenant AND topic = :topic AND done < last;

-- name: list_dead_letters
-- By key and number, from a cursor of both.
SELECT key, number, payload, created_at, died_at, attempts, error FROM holdfast_outbox_dead
WHERE tenant_id = :tenant AND topic = :topic AND (key, number) > (:after_key, :after_number)
ORDER BY key, number LIMIT :limit;

-- name: delete_dead_letter
-- Returned, so that who puts it again has what it was.
DELETE FROM holdfast_outbox_dead WHERE tenant_id = :tenant AND topic = :topic AND key = :key AND number = :number
RETURNING payload;

-- name: forget_outbox_keys
-- Keys that have nothing left, not even a dead letter, whose number would be given again.
DELETE FROM holdfast_outbox_keys
WHERE tenant_id = :tenant AND topic = :topic AND key IN (
    SELECT key FROM holdfast_outbox_keys
    WHERE tenant_id = :tenant AND topic = :topic AND done = last AND due_at < :before
          AND NOT EXISTS (SELECT 1 FROM holdfast_outbox_dead AS d WHERE d.tenant_id = :tenant AND d.topic = :topic
                          AND d.key = holdfast_outbox_keys.key)
    ORDER BY key LIMIT :limit);
