-- Each statement takes :tenant and, where it looks at tasks by what they are, :view: NULL is every owner's, '' what is
-- shared, anything else one owner's. The clock is the server's, statement_timestamp(), never a client's.

-- name: task_add
-- hot: one or many, as one JSON list. What has an id that is there stays as it is, and gives no row. Times are a
-- microsecond apart, so that what was added together keeps its order.
INSERT INTO holdfast_tasks (
    tenant_id, id, kind, key, parent_id, owner, shared, status, priority, level, attempts, max_attempts, token, wake_at,
    payload, metadata, created_at, updated_at
)
SELECT :tenant, r.id, r.kind, r.key, r.parent_id, :owner, CAST(:owner AS text) = '',
    CASE WHEN w.due > statement_timestamp() THEN 'deferred' ELSE 'pending' END, r.priority, r.level, 0, r.max_attempts,
    0, CASE WHEN w.due > statement_timestamp() THEN w.due END, CAST(r.payload AS json), CAST(r.metadata AS jsonb),
    w.moment, w.moment
FROM json_to_recordset(CAST(:rows AS json)) AS r (
    id text, kind text, key text, parent_id text, priority integer, level integer, max_attempts integer, payload text,
    metadata text, wake_at bigint, place integer
)
CROSS JOIN LATERAL (
    SELECT TIMESTAMPTZ '1970-01-01 00:00:00+00' + r.wake_at * INTERVAL '1 microsecond' AS due,
        statement_timestamp() + r.place * INTERVAL '1 microsecond' AS moment
) AS w
ON CONFLICT (tenant_id, id) DO NOTHING
RETURNING id, kind, key, parent_id, owner, shared, status, priority, level, attempts, max_attempts, token, lease_micros,
    wake_at, payload::text AS payload, result::text AS result, error, metadata, created_at, updated_at, finished_at;

-- name: task_get
-- hot: one probe of the primary key.
SELECT id, kind, key, parent_id, owner, shared, status, priority, level, attempts, max_attempts, token, lease_micros,
    wake_at, payload::text AS payload, result::text AS result, error, metadata, created_at, updated_at, finished_at
FROM holdfast_tasks
WHERE tenant_id = :tenant AND id = :id
    AND (CAST(:view AS text) IS NULL OR CASE :view WHEN '' THEN shared ELSE owner = :view END);

-- name: list_tasks_by_id
-- hot: one probe of the primary key for each id.
SELECT id, kind, key, parent_id, owner, shared, status, priority, level, attempts, max_attempts, token, lease_micros,
    wake_at, payload::text AS payload, result::text AS result, error, metadata, created_at, updated_at, finished_at
FROM holdfast_tasks
WHERE tenant_id = :tenant AND id = ANY(CAST(:ids AS text[]))
    AND (CAST(:view AS text) IS NULL OR CASE :view WHEN '' THEN shared ELSE owner = :view END)
ORDER BY id LIMIT :limit;

-- name: list_tasks
-- Newest first; by the parent's, the kind's or the tenant's index, whichever filter there is. The last two are for
-- statements that say `created_at > '-infinity'`, which is true of all.
SELECT id, kind, key, parent_id, owner, shared, status, priority, level, attempts, max_attempts, token, lease_micros,
    wake_at, payload::text AS payload, result::text AS result, error, metadata, created_at, updated_at, finished_at
FROM holdfast_tasks
WHERE tenant_id = :tenant
    AND (CAST(:view AS text) IS NULL OR CASE :view WHEN '' THEN shared ELSE owner = :view END)
    AND (CAST(:kinds AS text[]) IS NULL OR kind = ANY(CAST(:kinds AS text[])))
    AND (CAST(:statuses AS text[]) IS NULL OR status = ANY(CAST(:statuses AS text[])))
    AND (CAST(:parent AS text) IS NULL OR parent_id = CAST(:parent AS text))
    AND level >= CAST(:level AS integer) AND created_at > '-infinity'
    AND (CAST(:within AS bigint) IS NULL
        OR created_at > statement_timestamp() - CAST(:within AS bigint) * INTERVAL '1 microsecond')
    AND (CAST(:after_time AS timestamptz) IS NULL
        OR (created_at, id) < (CAST(:after_time AS timestamptz), CAST(:after_id AS text)))
    AND (CAST(:where AS jsonb) IS NULL OR NOT EXISTS (
        SELECT 1 FROM jsonb_each(CAST(:where AS jsonb)) AS w WHERE metadata -> w.key IS DISTINCT FROM w.value
    ))
ORDER BY created_at DESC, id DESC LIMIT :limit;

-- name: list_user_tasks
-- hot: by the index of users; the hash finds them, the name itself is compared.
SELECT id, kind, key, parent_id, owner, shared, status, priority, level, attempts, max_attempts, token, lease_micros,
    wake_at, payload::text AS payload, result::text AS result, error, metadata, created_at, updated_at, finished_at
FROM holdfast_tasks
WHERE tenant_id = :tenant
    AND hashtextextended((metadata ->> 'user_id') COLLATE "C", 0) = hashtextextended(CAST(:user AS text) COLLATE "C", 0)
    AND metadata -> 'user_id' = to_jsonb(CAST(:user AS text))
    AND (CAST(:view AS text) IS NULL OR CASE :view WHEN '' THEN shared ELSE owner = :view END)
    AND (CAST(:after_time AS timestamptz) IS NULL
        OR (created_at, id) < (CAST(:after_time AS timestamptz), CAST(:after_id AS text)))
ORDER BY created_at DESC, id DESC LIMIT :limit;

-- name: task_latest
-- hot: the newest end of one kind. It is found whoever holds it: a task that was handed on is still shared.
SELECT id, kind, key, parent_id, owner, shared, status, priority, level, attempts, max_attempts, token, lease_micros,
    wake_at, payload::text AS payload, result::text AS result, error, metadata, created_at, updated_at, finished_at
FROM holdfast_tasks
WHERE tenant_id = :tenant AND kind = :kind
    AND (CAST(:view AS text) IS NULL OR CASE :view WHEN '' THEN shared ELSE owner = :view END)
    AND (CAST(:status AS text) IS NULL OR status = CAST(:status AS text))
    AND created_at > '-infinity'
    AND created_at > COALESCE(statement_timestamp() - CAST(:within AS bigint) * INTERVAL '1 microsecond', '-infinity')
ORDER BY created_at DESC, id DESC LIMIT 1;

-- name: task_counts
-- All statuses in one pass; a window reads no more than what was created in it.
SELECT status, count(*) AS tasks
FROM holdfast_tasks
WHERE tenant_id = :tenant
    AND (CAST(:view AS text) IS NULL OR CASE :view WHEN '' THEN shared ELSE owner = :view END)
    AND (CAST(:kinds AS text[]) IS NULL OR kind = ANY(CAST(:kinds AS text[])))
    AND created_at > '-infinity'
    AND created_at > COALESCE(statement_timestamp() - CAST(:within AS bigint) * INTERVAL '1 microsecond', '-infinity')
GROUP BY status;

-- name: task_claim
-- hot: the first claim of a key makes the task; of those that come at the same time the primary key lets one through,
-- and the others find it held. One whose lease ran out is claimed again, with a larger token, until its attempts are
-- used up; one that was handed to an owner who didn't come for it in time is claimed by anybody. A claim's token is the
-- time in microseconds at least: a task that is made again after its deletion has none that the one before had.
INSERT INTO holdfast_tasks AS t (
    tenant_id, id, kind, key, owner, shared, status, priority, level, attempts, max_attempts, token, lease_micros,
    wake_at, payload, metadata, created_at, updated_at
)
VALUES (
    :tenant, :id, :kind, :key, :owner, true, 'active', :priority, 0, 1, :max_attempts,
    CAST(EXTRACT(epoch FROM statement_timestamp()) * 1000000 AS bigint), CAST(:lease AS bigint),
    statement_timestamp() + CAST(:lease AS bigint) * INTERVAL '1 microsecond', CAST(:payload AS json),
    CAST(:metadata AS jsonb),
    statement_timestamp(), statement_timestamp()
)
ON CONFLICT (tenant_id, id) DO UPDATE SET
    status = CASE WHEN t.status = 'active' AND t.attempts >= t.max_attempts THEN 'dead' ELSE 'active' END,
    error = CASE WHEN t.status = 'active' THEN 'the lease ran out' ELSE t.error END,
    owner = CASE WHEN t.status = 'active' AND t.attempts >= t.max_attempts THEN t.owner ELSE excluded.owner END,
    attempts = CASE WHEN t.status = 'active' AND t.attempts >= t.max_attempts THEN t.attempts ELSE t.attempts + 1 END,
    token = GREATEST(t.token + 1, excluded.token),
    lease_micros = CASE WHEN t.status = 'active' AND t.attempts >= t.max_attempts THEN t.lease_micros
        ELSE excluded.lease_micros END,
    wake_at = CASE WHEN t.status = 'active' AND t.attempts >= t.max_attempts THEN NULL ELSE excluded.wake_at END,
    finished_at = CASE WHEN t.status = 'active' AND t.attempts >= t.max_attempts THEN excluded.updated_at END,
    updated_at = excluded.updated_at
WHERE (t.status = 'pending' AND t.owner IN ('', excluded.owner))
    OR (t.status = 'deferred' AND t.wake_at <= statement_timestamp() AND t.owner IN ('', excluded.owner))
    OR (t.status = 'active' AND t.wake_at <= statement_timestamp() AND (t.shared OR t.owner = excluded.owner))
    OR (t.status = 'pending' AND t.wake_at <= statement_timestamp() AND t.shared)
    OR (t.status = 'deferred' AND t.shared
        AND t.wake_at <= statement_timestamp() - COALESCE(t.lease_micros, 0) * INTERVAL '1 microsecond')
RETURNING id, kind, key, parent_id, owner, shared, status, priority, level, attempts, max_attempts, token, lease_micros,
    wake_at, payload::text AS payload, result::text AS result, error, metadata, created_at, updated_at, finished_at;

-- name: task_claim_next
-- hot: of each kind, what is anybody's and what is the owner's, from the front of the ready index; and what the clock
-- has made claimable since: leases that ran out, deferred tasks that are due, and what an owner to whom it was handed
-- didn't come for in time. Of these what isn't taken becomes pending, or dead after its last attempt, so that no other
-- program has to see to it; a deferred task that was handed to an owner waits for this one first. Nobody waits: who is
-- locked is being claimed by somebody else. What is passed over is dead, or in the ready index as the owner's.
WITH due AS MATERIALIZED (
    SELECT id, kind, priority, created_at, CASE WHEN status = 'active' THEN attempts >= max_attempts
            ELSE status = 'pending' AND owner = :owner END AS passed,
        CASE WHEN shared AND (status <> 'deferred'
            OR wake_at <= statement_timestamp() - COALESCE(lease_micros, 0) * INTERVAL '1 microsecond'
        ) THEN '' ELSE owner END AS owner
    FROM holdfast_tasks
    WHERE tenant_id = :tenant AND wake_at <= statement_timestamp()
    ORDER BY wake_at LIMIT 100
    FOR UPDATE SKIP LOCKED
), ready AS MATERIALIZED (
    SELECT t.id, t.priority, t.created_at
    FROM unnest(CAST(:kinds AS text[])) AS k (kind)
    CROSS JOIN unnest(CAST(:owners AS text[])) AS o (owner)
    CROSS JOIN LATERAL (
        SELECT id, priority, created_at FROM holdfast_tasks
        WHERE tenant_id = :tenant AND kind = k.kind AND owner = o.owner AND status = 'pending'
        ORDER BY priority DESC, created_at, id LIMIT :limit
        FOR UPDATE SKIP LOCKED
    ) AS t
), picked AS MATERIALIZED (
    SELECT id FROM (
        SELECT id, priority, created_at FROM ready
        UNION ALL
        SELECT id, priority, created_at FROM due
        WHERE NOT passed AND kind = ANY(CAST(:kinds AS text[])) AND owner = ANY(CAST(:owners AS text[]))
    ) AS c
    ORDER BY priority DESC, created_at, id LIMIT :limit
), taken AS (
    UPDATE holdfast_tasks AS t SET
        status = 'active', owner = :owner, attempts = t.attempts + 1,
        token = GREATEST(t.token + 1, CAST(EXTRACT(epoch FROM statement_timestamp()) * 1000000 AS bigint)),
        error = CASE WHEN t.status = 'active' THEN 'the lease ran out' ELSE t.error END,
        lease_micros = CAST(:lease AS bigint),
        wake_at = statement_timestamp() + CAST(:lease AS bigint) * INTERVAL '1 microsecond',
        updated_at = statement_timestamp()
    WHERE t.tenant_id = :tenant AND t.id = ANY(ARRAY(SELECT id FROM picked))
    RETURNING t.id, t.kind, t.key, t.parent_id, t.owner, t.shared, t.status, t.priority, t.level, t.attempts,
        t.max_attempts, t.token, t.lease_micros, t.wake_at, t.payload::text AS payload, t.result::text AS result,
        t.error, t.metadata, t.created_at,
        t.updated_at, t.finished_at
), woken AS (
    UPDATE holdfast_tasks AS t SET
        status = CASE WHEN t.status = 'active' AND t.attempts >= t.max_attempts THEN 'dead' ELSE 'pending' END,
        owner = CASE
            WHEN NOT t.shared OR t.status = 'active' AND t.attempts >= t.max_attempts THEN t.owner
            WHEN t.status = 'deferred'
                AND t.wake_at + COALESCE(t.lease_micros, 0) * INTERVAL '1 microsecond' > statement_timestamp()
                THEN t.owner
            ELSE '' END,
        token = t.token + 1, error = CASE WHEN t.status = 'active' THEN 'the lease ran out' ELSE t.error END,
        wake_at = CASE WHEN t.shared AND t.status = 'deferred' AND t.owner <> ''
            AND t.wake_at + t.lease_micros * INTERVAL '1 microsecond' > statement_timestamp()
            THEN t.wake_at + t.lease_micros * INTERVAL '1 microsecond' END,
        updated_at = statement_timestamp(),
        finished_at = CASE WHEN t.status = 'active' AND t.attempts >= t.max_attempts THEN statement_timestamp() END
    WHERE t.tenant_id = :tenant AND t.id = ANY(ARRAY(SELECT id FROM due EXCEPT SELECT id FROM picked))
)
SELECT * FROM taken ORDER BY priority DESC, created_at, id;

-- name: task_claim_some
-- hot: task_claim_next for one kind and at most 100 tasks, the commonest claim. With a list of kinds and a limit that
-- it doesn't know, PostgreSQL guesses that the prepared plan is dear and plans anew each time, which costs more than
-- the claim itself: hence the limit of 100 within, of which no more is read or locked than the one without asks for.
WITH due AS MATERIALIZED (
    SELECT id, kind, priority, created_at, CASE WHEN status = 'active' THEN attempts >= max_attempts
            ELSE status = 'pending' AND owner = :owner END AS passed,
        CASE WHEN shared AND (status <> 'deferred'
            OR wake_at <= statement_timestamp() - COALESCE(lease_micros, 0) * INTERVAL '1 microsecond'
        ) THEN '' ELSE owner END AS owner
    FROM holdfast_tasks
    WHERE tenant_id = :tenant AND wake_at <= statement_timestamp()
    ORDER BY wake_at LIMIT 100
    FOR UPDATE SKIP LOCKED
), ready AS MATERIALIZED (
    SELECT t.id, t.priority, t.created_at
    FROM (VALUES (''), (CAST(:owner AS text))) AS o (owner)
    CROSS JOIN LATERAL (
        SELECT * FROM (
            SELECT id, priority, created_at FROM holdfast_tasks
            WHERE tenant_id = :tenant AND kind = :kind AND owner = o.owner AND status = 'pending'
            ORDER BY priority DESC, created_at, id LIMIT 100
            FOR UPDATE SKIP LOCKED
        ) AS h
        LIMIT :limit
    ) AS t
), picked AS MATERIALIZED (
    SELECT id FROM (
        SELECT id, priority, created_at FROM ready
        UNION ALL
        SELECT id, priority, created_at FROM due
        WHERE NOT passed AND kind = :kind AND owner IN ('', :owner)
    ) AS c
    ORDER BY priority DESC, created_at, id LIMIT :limit
), taken AS (
    UPDATE holdfast_tasks AS t SET
        status = 'active', owner = :owner, attempts = t.attempts + 1,
        token = GREATEST(t.token + 1, CAST(EXTRACT(epoch FROM statement_timestamp()) * 1000000 AS bigint)),
        error = CASE WHEN t.status = 'active' THEN 'the lease ran out' ELSE t.error END,
        lease_micros = CAST(:lease AS bigint),
        wake_at = statement_timestamp() + CAST(:lease AS bigint) * INTERVAL '1 microsecond',
        updated_at = statement_timestamp()
    WHERE t.tenant_id = :tenant AND t.id = ANY(ARRAY(SELECT id FROM picked))
    RETURNING t.id, t.kind, t.key, t.parent_id, t.owner, t.shared, t.status, t.priority, t.level, t.attempts,
        t.max_attempts, t.token, t.lease_micros, t.wake_at, t.payload::text AS payload, t.result::text AS result,
        t.error, t.metadata, t.created_at,
        t.updated_at, t.finished_at
), woken AS (
    UPDATE holdfast_tasks AS t SET
        status = CASE WHEN t.status = 'active' AND t.attempts >= t.max_attempts THEN 'dead' ELSE 'pending' END,
        owner = CASE
            WHEN NOT t.shared OR t.status = 'active' AND t.attempts >= t.max_attempts THEN t.owner
            WHEN t.status = 'deferred'
                AND t.wake_at + COALESCE(t.lease_micros, 0) * INTERVAL '1 microsecond' > statement_timestamp()
                THEN t.owner
            ELSE '' END,
        token = t.token + 1, error = CASE WHEN t.status = 'active' THEN 'the lease ran out' ELSE t.error END,
        wake_at = CASE WHEN t.shared AND t.status = 'deferred' AND t.owner <> ''
            AND t.wake_at + t.lease_micros * INTERVAL '1 microsecond' > statement_timestamp()
            THEN t.wake_at + t.lease_micros * INTERVAL '1 microsecond' END,
        updated_at = statement_timestamp(),
        finished_at = CASE WHEN t.status = 'active' AND t.attempts >= t.max_attempts THEN statement_timestamp() END
    WHERE t.tenant_id = :tenant AND t.id = ANY(ARRAY(SELECT id FROM due EXCEPT SELECT id FROM picked))
)
SELECT * FROM taken ORDER BY priority DESC, created_at, id;

-- name: task_release_expired
-- hot: from the old end of the wake index; whoever is renewing or claiming one holds its lock, and it is skipped.
WITH due AS MATERIALIZED (
    SELECT id FROM holdfast_tasks
    WHERE tenant_id = :tenant AND wake_at <= statement_timestamp()
    ORDER BY wake_at LIMIT :limit
    FOR UPDATE SKIP LOCKED
)
UPDATE holdfast_tasks AS t SET
    status = CASE WHEN t.status = 'active' AND t.attempts >= t.max_attempts THEN 'dead' ELSE 'pending' END,
    owner = CASE
        WHEN NOT t.shared OR t.status = 'active' AND t.attempts >= t.max_attempts THEN t.owner
        WHEN t.status = 'deferred'
            AND t.wake_at + COALESCE(t.lease_micros, 0) * INTERVAL '1 microsecond' > statement_timestamp()
            THEN t.owner
        ELSE '' END,
    token = t.token + 1, error = CASE WHEN t.status = 'active' THEN 'the lease ran out' ELSE t.error END,
    wake_at = CASE WHEN t.shared AND t.status = 'deferred' AND t.owner <> ''
        AND t.wake_at + t.lease_micros * INTERVAL '1 microsecond' > statement_timestamp()
        THEN t.wake_at + t.lease_micros * INTERVAL '1 microsecond' END,
    updated_at = statement_timestamp(),
    finished_at = CASE WHEN t.status = 'active' AND t.attempts >= t.max_attempts THEN statement_timestamp() END
WHERE t.tenant_id = :tenant AND t.id = ANY(ARRAY(SELECT id FROM due));

-- name: task_renew
-- hot: the token is compared under the row lock; a lease that ran out can't be renewed, even where nobody took it.
-- COALESCE keeps one task from being looked for in the index of all leases.
UPDATE holdfast_tasks SET
    lease_micros = COALESCE(CAST(:lease AS bigint), lease_micros),
    wake_at = clock_timestamp() + COALESCE(CAST(:lease AS bigint), lease_micros) * INTERVAL '1 microsecond',
    updated_at = statement_timestamp()
WHERE tenant_id = :tenant AND id = :id AND token = :token AND status = 'active'
    AND COALESCE(wake_at > statement_timestamp(), false)
    AND (CAST(:view AS text) IS NULL OR CASE :view WHEN '' THEN shared ELSE owner = :view END)
RETURNING id, kind, key, parent_id, owner, shared, status, priority, level, attempts, max_attempts, token, lease_micros,
    wake_at, payload::text AS payload, result::text AS result, error, metadata, created_at, updated_at, finished_at;

-- name: task_settle
-- hot: the end of a hold: completed, failed, rejected, or given back. What isn't an attempt is refunded. COALESCE as in
-- task_renew.
UPDATE holdfast_tasks SET
    status = :status, attempts = attempts - CAST(:refund AS integer),
    owner = CASE WHEN shared AND CAST(:status AS text) IN ('pending', 'deferred') THEN '' ELSE owner END,
    result = CAST(:result AS json), error = COALESCE(CAST(:error AS text), error),
    wake_at = COALESCE(
        statement_timestamp() + CAST(:delay AS bigint) * INTERVAL '1 microsecond', CAST(:until AS timestamptz)
    ),
    updated_at = statement_timestamp(),
    finished_at = CASE WHEN CAST(:status AS text) NOT IN ('pending', 'deferred') THEN statement_timestamp() END
WHERE tenant_id = :tenant AND id = :id AND token = :token AND status = 'active'
    AND COALESCE(wake_at > statement_timestamp(), false)
    AND (CAST(:view AS text) IS NULL OR CASE :view WHEN '' THEN shared ELSE owner = :view END)
RETURNING id, kind, key, parent_id, owner, shared, status, priority, level, attempts, max_attempts, token, lease_micros,
    wake_at, payload::text AS payload, result::text AS result, error, metadata, created_at, updated_at, finished_at;

-- name: task_complete_many
-- hot: as task_settle, for many: they travel as one JSON list. The array finds the rows, whatever the planner thinks of
-- the size of the list, and COALESCE keeps it from the index of all leases.
UPDATE holdfast_tasks AS t SET
    status = 'completed', result = CAST(r.result AS json), wake_at = NULL, updated_at = statement_timestamp(),
    finished_at = statement_timestamp()
FROM json_to_recordset(CAST(:rows AS json)) AS r (id text, token bigint, result text)
WHERE t.tenant_id = :tenant AND t.id = ANY(CAST(:ids AS text[])) AND t.id = r.id AND t.token = r.token
    AND t.status = 'active' AND COALESCE(t.wake_at > statement_timestamp(), false)
    AND (CAST(:view AS text) IS NULL OR CASE :view WHEN '' THEN t.shared ELSE t.owner = :view END)
RETURNING t.id, t.kind, t.key, t.parent_id, t.owner, t.shared, t.status, t.priority, t.level, t.attempts,
    t.max_attempts, t.token, t.lease_micros, t.wake_at, t.payload::text AS payload, t.result::text AS result,
    t.error, t.metadata, t.created_at,
    t.updated_at, t.finished_at;

-- name: task_fail
-- hot: deferred until the next attempt, or dead after the last. COALESCE as in task_renew.
UPDATE holdfast_tasks SET
    status = CASE WHEN attempts >= max_attempts THEN 'dead' ELSE 'deferred' END,
    owner = CASE WHEN shared AND attempts < max_attempts THEN '' ELSE owner END, error = :error,
    wake_at = CASE WHEN attempts < max_attempts
        THEN statement_timestamp() + CAST(:delay AS bigint) * INTERVAL '1 microsecond' END,
    updated_at = statement_timestamp(),
    finished_at = CASE WHEN attempts >= max_attempts THEN statement_timestamp() END
WHERE tenant_id = :tenant AND id = :id AND token = :token AND status = 'active'
    AND COALESCE(wake_at > statement_timestamp(), false)
    AND (CAST(:view AS text) IS NULL OR CASE :view WHEN '' THEN shared ELSE owner = :view END)
RETURNING id, kind, key, parent_id, owner, shared, status, priority, level, attempts, max_attempts, token, lease_micros,
    wake_at, payload::text AS payload, result::text AS result, error, metadata, created_at, updated_at, finished_at;

-- name: task_defer
-- hot: of a task that nobody holds.
UPDATE holdfast_tasks SET
    status = 'deferred', updated_at = statement_timestamp(),
    wake_at = COALESCE(
        statement_timestamp() + CAST(:delay AS bigint) * INTERVAL '1 microsecond', CAST(:until AS timestamptz)
    )
WHERE tenant_id = :tenant AND id = :id AND status IN ('pending', 'deferred')
    AND (CAST(:view AS text) IS NULL OR CASE :view WHEN '' THEN shared ELSE owner = :view END)
RETURNING id, kind, key, parent_id, owner, shared, status, priority, level, attempts, max_attempts, token, lease_micros,
    wake_at, payload::text AS payload, result::text AS result, error, metadata, created_at, updated_at, finished_at;

-- name: task_escalate
-- hot: one level up, in whatever status of an open task; who holds it goes on.
UPDATE holdfast_tasks SET level = level + 1, updated_at = statement_timestamp()
WHERE tenant_id = :tenant AND id = :id AND finished_at IS NULL AND level < 2147483647
    AND (CAST(:view AS text) IS NULL OR CASE :view WHEN '' THEN shared ELSE owner = :view END)
RETURNING id, kind, key, parent_id, owner, shared, status, priority, level, attempts, max_attempts, token, lease_micros,
    wake_at, payload::text AS payload, result::text AS result, error, metadata, created_at, updated_at, finished_at;

-- name: task_retry
-- hot: the task begins anew, its attempts uncounted; the token grows on, so no former holder comes back.
UPDATE holdfast_tasks SET
    status = 'pending', attempts = 0, token = token + 1, owner = CASE WHEN shared THEN '' ELSE owner END,
    result = NULL, finished_at = NULL, updated_at = statement_timestamp()
WHERE tenant_id = :tenant AND id = :id AND status IN ('failed', 'dead', 'cancelled', 'rejected')
    AND (CAST(:view AS text) IS NULL OR CASE :view WHEN '' THEN shared ELSE owner = :view END)
RETURNING id, kind, key, parent_id, owner, shared, status, priority, level, attempts, max_attempts, token, lease_micros,
    wake_at, payload::text AS payload, result::text AS result, error, metadata, created_at, updated_at, finished_at;

-- name: task_cancel
-- hot: the task is locked before its children are looked for; the token grows, so that who holds one can't complete it.
WITH RECURSIVE root AS MATERIALIZED (
    SELECT id FROM holdfast_tasks
    WHERE tenant_id = :tenant AND id = :id AND finished_at IS NULL
        AND (CAST(:view AS text) IS NULL OR CASE :view WHEN '' THEN shared ELSE owner = :view END)
    FOR UPDATE
), family AS (
    SELECT id FROM root
    UNION
    SELECT c.id FROM family AS f JOIN holdfast_tasks AS c ON c.tenant_id = :tenant AND c.parent_id = f.id
    WHERE CAST(:with_children AS boolean)
), ended AS (
    UPDATE holdfast_tasks AS t SET
        status = 'cancelled', token = t.token + 1, wake_at = NULL, error = COALESCE(CAST(:error AS text), t.error),
        updated_at = statement_timestamp(), finished_at = statement_timestamp()
    WHERE t.tenant_id = :tenant AND t.id = ANY(ARRAY(SELECT id FROM family)) AND t.finished_at IS NULL
    RETURNING t.id, t.kind, t.key, t.parent_id, t.owner, t.shared, t.status, t.priority, t.level, t.attempts,
        t.max_attempts, t.token, t.lease_micros, t.wake_at, t.payload::text AS payload, t.result::text AS result,
        t.error, t.metadata, t.created_at,
        t.updated_at, t.finished_at
)
SELECT * FROM ended WHERE id = :id;

-- name: task_transfer
-- hot: compare and set: nothing moves unless the owner still is the one that was named. Who held it holds it no more:
-- the task waits for its new owner, one that is shared until its lease ends. Of its children those go along that the
-- same owner had.
WITH RECURSIVE root AS MATERIALIZED (
    SELECT id FROM holdfast_tasks
    WHERE tenant_id = :tenant AND id = :id AND owner = :from_owner AND finished_at IS NULL
    FOR UPDATE
), family AS (
    SELECT id FROM root
    UNION
    SELECT c.id FROM family AS f JOIN holdfast_tasks AS c ON c.tenant_id = :tenant AND c.parent_id = f.id
    WHERE CAST(:with_children AS boolean)
), moved AS (
    UPDATE holdfast_tasks AS t SET
        owner = :to_owner, shared = t.shared OR CAST(:to_owner AS text) = '', token = t.token + 1,
        attempts = CASE WHEN t.status = 'active' THEN t.attempts - 1 ELSE t.attempts END,
        status = CASE WHEN t.status = 'active' THEN 'pending' ELSE t.status END,
        lease_micros = CASE WHEN t.shared AND CAST(:to_owner AS text) <> '' THEN CAST(:lease AS bigint)
            ELSE t.lease_micros END,
        wake_at = CASE WHEN t.status = 'deferred' THEN t.wake_at WHEN t.shared AND CAST(:to_owner AS text) <> ''
            THEN statement_timestamp() + CAST(:lease AS bigint) * INTERVAL '1 microsecond' END,
        updated_at = statement_timestamp()
    WHERE t.tenant_id = :tenant AND t.id = ANY(ARRAY(SELECT id FROM family)) AND t.owner = :from_owner
        AND t.finished_at IS NULL
    RETURNING t.id, t.kind, t.key, t.parent_id, t.owner, t.shared, t.status, t.priority, t.level, t.attempts,
        t.max_attempts, t.token, t.lease_micros, t.wake_at, t.payload::text AS payload, t.result::text AS result,
        t.error, t.metadata, t.created_at,
        t.updated_at, t.finished_at
)
SELECT * FROM moved WHERE id = :id;

-- name: task_hand_over
-- hot: a batch of what an owner has: to another all that is open, to nobody what is held and what is shared, so also
-- what was handed to this owner and waits for it.
UPDATE holdfast_tasks AS t SET
    owner = COALESCE(CAST(:to_owner AS text), CASE WHEN t.shared THEN '' ELSE t.owner END), token = t.token + 1,
    attempts = CASE WHEN t.status = 'active' THEN t.attempts - 1 ELSE t.attempts END,
    status = CASE WHEN t.status = 'active' THEN 'pending' ELSE t.status END,
    lease_micros = CASE WHEN t.shared THEN COALESCE(CAST(:lease AS bigint), t.lease_micros) ELSE t.lease_micros END,
    wake_at = CASE WHEN t.status = 'deferred' THEN t.wake_at WHEN t.shared AND CAST(:to_owner AS text) IS NOT NULL
        THEN statement_timestamp() + CAST(:lease AS bigint) * INTERVAL '1 microsecond' END,
    updated_at = statement_timestamp()
WHERE t.tenant_id = :tenant AND t.id = ANY(ARRAY(
    SELECT o.id FROM holdfast_tasks AS o
    WHERE o.tenant_id = :tenant AND o.owner = :owner AND o.owner <> '' AND o.finished_at IS NULL
        AND (CAST(:to_owner AS text) IS NOT NULL OR o.status = 'active' OR o.shared)
    ORDER BY o.id LIMIT :limit FOR UPDATE
));

-- name: task_delete_finished
-- hot: from the old end of what is finished, and only what has no children: a parent goes after the last of them.
DELETE FROM holdfast_tasks AS t
WHERE t.tenant_id = :tenant AND t.id = ANY(ARRAY(
    SELECT o.id FROM holdfast_tasks AS o
    WHERE o.tenant_id = :tenant
        AND o.finished_at <= statement_timestamp() - CAST(:older_than AS bigint) * INTERVAL '1 microsecond'
        AND (CAST(:statuses AS text[]) IS NULL OR o.status = ANY(CAST(:statuses AS text[])))
        AND NOT EXISTS (SELECT 1 FROM holdfast_tasks AS c WHERE c.tenant_id = :tenant AND c.parent_id = o.id)
    ORDER BY o.finished_at LIMIT :limit FOR UPDATE SKIP LOCKED
));

-- name: task_delete
-- hot: a finished task without children. COALESCE as in task_renew, for the index of all that is finished.
DELETE FROM holdfast_tasks AS t
WHERE t.tenant_id = :tenant AND t.id = :id AND COALESCE(t.finished_at IS NOT NULL, false)
    AND (CAST(:view AS text) IS NULL OR CASE :view WHEN '' THEN t.shared ELSE t.owner = :view END)
    AND NOT EXISTS (SELECT 1 FROM holdfast_tasks AS c WHERE c.tenant_id = :tenant AND c.parent_id = :id);
