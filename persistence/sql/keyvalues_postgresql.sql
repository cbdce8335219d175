-- The statements of KeyValueStore and of locks on PostgreSQL.

-- name: get_value
-- hot: one probe of the primary key. What has expired isn't there, cleaned or not.
SELECT value, number FROM holdfast_key_values
WHERE tenant_id = :tenant AND namespace = :namespace AND key = :key AND (expires_at IS NULL OR expires_at > clock_timestamp());

-- name: get_value_left
-- By the clock that its end was set by, which need not be the caller's.
SELECT CAST(greatest(0, extract(epoch FROM expires_at - clock_timestamp())) AS float8) AS seconds_left
FROM holdfast_key_values
WHERE tenant_id = :tenant AND namespace = :namespace AND key = :key AND expires_at > clock_timestamp();

-- name: get_key_value
-- hot: the same, with what a caller that compares needs.
SELECT key, value, number, version, expires_at FROM holdfast_key_values
WHERE tenant_id = :tenant AND namespace = :namespace AND key = :key AND (expires_at IS NULL OR expires_at > clock_timestamp());

-- name: get_many_values
-- Any number of keys in one text; the caller bounds it.
SELECT key, value, number FROM holdfast_key_values
WHERE tenant_id = :tenant AND namespace = :namespace AND key = ANY(CAST(:keys AS text[])) AND (expires_at IS NULL OR expires_at > clock_timestamp())
ORDER BY key LIMIT 10000;

-- name: scan_key_values
-- hot: a range of the primary key, from the cursor to the end of the prefix.
SELECT key, value, number, version, expires_at FROM holdfast_key_values
WHERE tenant_id = :tenant AND namespace = :namespace AND key >= :prefix AND key > :after AND key < :until
    AND (expires_at IS NULL OR expires_at > clock_timestamp())
ORDER BY key LIMIT :limit;

-- name: put_value
-- One statement, whether it was there or not: the version grows under the row's lock. It begins with the time, in
-- microseconds, so that a key which is put again after it went has no version that it had before.
INSERT INTO holdfast_key_values (tenant_id, namespace, key, value, number, version, expires_at)
VALUES (:tenant, :namespace, :key, CAST(:value AS bytea), CAST(:number AS bigint), CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint),
    clock_timestamp() + CAST(:ttl AS double precision) * INTERVAL '1 second')
ON CONFLICT (tenant_id, namespace, key) DO UPDATE
SET value = excluded.value, number = excluded.number, expires_at = excluded.expires_at,
    version = holdfast_key_values.version + 1
RETURNING version;

-- name: put_new_value
-- Only where nothing is, or only what has expired; no row tells that something is.
INSERT INTO holdfast_key_values (tenant_id, namespace, key, value, number, version, expires_at)
VALUES (:tenant, :namespace, :key, CAST(:value AS bytea), CAST(:number AS bigint), CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint),
    clock_timestamp() + CAST(:ttl AS double precision) * INTERVAL '1 second')
ON CONFLICT (tenant_id, namespace, key) DO UPDATE
SET value = excluded.value, number = excluded.number, expires_at = excluded.expires_at,
    version = holdfast_key_values.version + 1
WHERE holdfast_key_values.expires_at <= clock_timestamp()
RETURNING version;

-- name: put_expected_value
-- Only over the version that the caller saw; no row tells that it isn't so.
UPDATE holdfast_key_values SET value = CAST(:value AS bytea), number = CAST(:number AS bigint), expires_at = clock_timestamp() + CAST(:ttl AS double precision) * INTERVAL '1 second', version = version + 1
WHERE tenant_id = :tenant AND namespace = :namespace AND key = :key AND version = :expected
    AND (expires_at IS NULL OR expires_at > clock_timestamp())
RETURNING version;

-- name: increment_value
-- The sum is made in the row, under its lock; no row tells that a value is there which is no number. The expiry is
-- that of the first, and a counter that has expired begins anew.
INSERT INTO holdfast_key_values (tenant_id, namespace, key, number, version, expires_at)
VALUES (:tenant, :namespace, :key, CAST(:number AS bigint), CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint),
    clock_timestamp() + CAST(:ttl AS double precision) * INTERVAL '1 second')
ON CONFLICT (tenant_id, namespace, key) DO UPDATE
SET number = CASE WHEN holdfast_key_values.expires_at <= clock_timestamp() THEN excluded.number
        ELSE holdfast_key_values.number + excluded.number END,
    expires_at = CASE WHEN holdfast_key_values.expires_at <= clock_timestamp() THEN excluded.expires_at
        ELSE holdfast_key_values.expires_at END,
    value = NULL, version = holdfast_key_values.version + 1
WHERE holdfast_key_values.number IS NOT NULL OR holdfast_key_values.expires_at <= clock_timestamp()
RETURNING number;

-- name: delete_value
-- What has expired was not there to delete.
DELETE FROM holdfast_key_values
WHERE tenant_id = :tenant AND namespace = :namespace AND key = :key
    AND (CAST(:expected AS bigint) IS NULL OR version = CAST(:expected AS bigint)) AND (expires_at IS NULL OR expires_at > clock_timestamp());

-- name: delete_many_values
-- As delete_value, for any number of keys in one text.
DELETE FROM holdfast_key_values
WHERE tenant_id = :tenant AND namespace = :namespace AND key = ANY(CAST(:keys AS text[])) AND (expires_at IS NULL OR expires_at > clock_timestamp());

-- name: expire_value
-- The version stays: the value does.
UPDATE holdfast_key_values SET expires_at = clock_timestamp() + CAST(:ttl AS double precision) * INTERVAL '1 second'
WHERE tenant_id = :tenant AND namespace = :namespace AND key = :key AND (expires_at IS NULL OR expires_at > clock_timestamp());

-- name: clear_values
-- One range of the primary key.
DELETE FROM holdfast_key_values WHERE tenant_id = :tenant AND namespace = :namespace;

-- name: delete_expired_values
-- The oldest first, in batches, by the index on expiry.
DELETE FROM holdfast_key_values
WHERE tenant_id = :tenant AND namespace = :namespace AND key IN (
    SELECT expired.key FROM holdfast_key_values AS expired
    WHERE expired.tenant_id = :tenant AND expired.namespace = :namespace AND expired.expires_at <= clock_timestamp()
    ORDER BY expired.expires_at LIMIT :limit FOR UPDATE SKIP LOCKED
) AND expires_at <= clock_timestamp();

-- name: take_lease
-- One statement takes a lease that is free or has run out; the token grows each time.
INSERT INTO holdfast_leases (tenant_id, name, holder, fence, expires_at)
VALUES (:tenant, :name, :holder, 1, clock_timestamp() + CAST(:ttl AS double precision) * INTERVAL '1 second')
ON CONFLICT (tenant_id, name) DO UPDATE
SET holder = excluded.holder, expires_at = excluded.expires_at, fence = holdfast_leases.fence + 1
WHERE holdfast_leases.expires_at <= clock_timestamp()
RETURNING fence;

-- name: renew_lease
-- Only while it has not run out: whoever comes late must learn of it.
UPDATE holdfast_leases SET expires_at = clock_timestamp() + CAST(:ttl AS double precision) * INTERVAL '1 second'
WHERE tenant_id = :tenant AND name = :name AND holder = :holder AND expires_at > clock_timestamp();

-- name: release_lease
-- The row stays, for its token.
UPDATE holdfast_leases SET expires_at = '-infinity'
WHERE tenant_id = :tenant AND name = :name AND holder = :holder AND expires_at > clock_timestamp();

-- name: limit_advisory_lock
-- For this lock alone; what the limit was is kept beside it.
SELECT set_config('holdfast.lock_timeout', current_setting('lock_timeout'), true),
    set_config('lock_timeout', :limit, true);

-- name: take_advisory_lock
-- The form that ends with its transaction: a session's own would stay behind in a pooler.
SELECT pg_advisory_xact_lock(:number);

-- name: unlimit_advisory_lock
-- Back to what it was.
SELECT set_config('lock_timeout', current_setting('holdfast.lock_timeout'), true);
