-- As on PostgreSQL. Each statement takes :tenant, :view and what needs a clock :now, ours in microseconds. Parameters
-- that are lists are JSON.

-- name: task_add
-- hot: as on PostgreSQL.
INSERT INTO holdfast_tasks (
    tenant_id, id, kind, key, parent_id, owner, shared, status, priority, level, attempts, max_attempts, token, wake_at,
    payload, metadata, created_at, updated_at
)
SELECT :tenant, value ->> 'id', value ->> 'kind', value ->> 'key', value ->> 'parent_id', :owner, :owner = '',
    CASE WHEN value ->> 'wake_at' > :now THEN 'deferred' ELSE 'pending' END, value ->> 'priority', value ->> 'level', 0,
    value ->> 'max_attempts', 0, CASE WHEN value ->> 'wake_at' > :now THEN value ->> 'wake_at' END,
    value ->> 'payload', value ->> 'metadata', :now + (value ->> 'place'), :now + (value ->> 'place')
FROM json_each(:rows)
WHERE true
ON CONFLICT (tenant_id, id) DO NOTHING
RETURNING id, kind, key, parent_id, owner, shared, status, priority, level, attempts, max_attempts, token, lease_micros,
    wake_at, payload, result, error, metadata, created_at, updated_at, finished_at;

-- name: task_get
-- hot: one probe of the primary key.
SELECT id, kind, key, parent_id, owner, shared, status, priority, level, attempts, max_attempts, token, lease_micros,
    wake_at, payload, result, error, metadata, created_at, updated_at, finished_at
FROM holdfast_tasks
WHERE tenant_id = :tenant AND id = :id
    AND (:view IS NULL OR CASE :view WHEN '' THEN shared ELSE owner = :view END);

-- name: list_tasks_by_id
-- hot: one probe of the primary key for each id.
SELECT id, kind, key, parent_id, owner, shared, status, priority, level, attempts, max_attempts, token, lease_micros,
    wake_at, payload, result, error, metadata, created_at, updated_at, finished_at
FROM holdfast_tasks
WHERE tenant_id = :tenant AND id IN (SELECT value FROM json_each(:ids))
    AND (:view IS NULL OR CASE :view WHEN '' THEN shared ELSE owner = :view END)
ORDER BY id LIMIT :limit;

-- name: list_tasks
-- Newest first, along the index that has this order.
SELECT id, kind, key, parent_id, owner, shared, status, priority, level, attempts, max_attempts, token, lease_micros,
    wake_at, payload, result, error, metadata, created_at, updated_at, finished_at
FROM holdfast_tasks
WHERE tenant_id = :tenant
    AND (:view IS NULL OR CASE :view WHEN '' THEN shared ELSE owner = :view END)
    AND (:kinds IS NULL OR kind IN (SELECT value FROM json_each(:kinds)))
    AND (:statuses IS NULL OR status IN (SELECT value FROM json_each(:statuses)))
    AND (:parent IS NULL OR parent_id = :parent)
    AND level >= :level
    AND (:within IS NULL OR created_at > :now - :within)
    AND (:after_time IS NULL OR (created_at, id) < (:after_time, :after_id))
    AND (:where IS NULL OR NOT EXISTS (
        SELECT 1 FROM json_tree(:where) WHERE json_tree.key IS NOT NULL AND NOT EXISTS (
            SELECT 1 FROM json_each(holdfast_tasks.metadata)
            WHERE json_each.key = json_tree.key AND json_each.atom IS json_tree.atom AND (
                json_each.type = json_tree.type
                OR json_each.type IN ('integer', 'real') AND json_tree.type IN ('integer', 'real')
            )
        )
    ))
ORDER BY created_at DESC, id DESC LIMIT :limit;

-- name: list_child_tasks
-- hot: the children of one task are few, and are sorted: + keeps SQLite from an index that has the order but not them.
SELECT id, kind, key, parent_id, owner, shared, status, priority, level, attempts, max_attempts, token, lease_micros,
    wake_at, payload, result, error, metadata, created_at, updated_at, finished_at
FROM holdfast_tasks
WHERE tenant_id = :tenant AND parent_id = :parent
    AND (:view IS NULL OR CASE :view WHEN '' THEN shared ELSE owner = :view END)
    AND (:kinds IS NULL OR kind IN (SELECT value FROM json_each(:kinds)))
    AND (:statuses IS NULL OR status IN (SELECT value FROM json_each(:statuses)))
    AND level >= :level
    AND (:within IS NULL OR created_at > :now - :within)
    AND (:after_time IS NULL OR (created_at, id) < (:after_time, :after_id))
    AND (:where IS NULL OR NOT EXISTS (
        SELECT 1 FROM json_tree(:where) WHERE json_tree.key IS NOT NULL AND NOT EXISTS (
            SELECT 1 FROM json_each(holdfast_tasks.metadata)
            WHERE json_each.key = json_tree.key AND json_each.atom IS json_tree.atom AND (
                json_each.type = json_tree.type
                OR json_each.type IN ('integer', 'real') AND json_tree.type IN ('integer', 'real')
            )
        )
    ))
ORDER BY +created_at DESC, +id DESC LIMIT :limit;

-- name: list_user_tasks
-- hot: by the index of users.
SELECT id, kind, key, parent_id, owner, shared, status, priority, level, attempts, max_attempts, token, lease_micros,
    wake_at, payload, result, error, metadata, created_at, updated_at, finished_at
FROM holdfast_tasks
WHERE tenant_id = :tenant
    AND CASE WHEN json_valid(metadata) THEN metadata ->> '$.user_id' END = :user
    AND json_type(metadata, '$.user_id') = 'text'
    AND (:view IS NULL OR CASE :view WHEN '' THEN shared ELSE owner = :view END)
    AND (:after_time IS NULL OR (created_at, id) < (:after_time, :after_id))
ORDER BY created_at DESC, id DESC LIMIT :limit;

-- name: task_latest
-- hot: the newest end of one kind.
SELECT id, kind, key, parent_id, owner, shared, status, priority, level, attempts, max_attempts, token, lease_micros,
    wake_at, payload, result, error, metadata, created_at, updated_at, finished_at
FROM holdfast_tasks
WHERE tenant_id = :tenant AND kind = :kind
    AND (:view IS NULL OR CASE :view WHEN '' THEN shared ELSE owner = :view END)
    AND (:status IS NULL OR status = :status) AND created_at > COALESCE(:now - :within, -1)
ORDER BY created_at DESC, id DESC LIMIT 1;

-- name: task_counts
-- All statuses in one pass.
SELECT status, count(*) AS tasks
FROM holdfast_tasks
WHERE tenant_id = :tenant
    AND (:view IS NULL OR CASE :view WHEN '' THEN shared ELSE owner = :view END)
    AND (:kinds IS NULL OR kind IN (SELECT value FROM json_each(:kinds)))
    AND created_at > COALESCE(:now - :within, -1)
GROUP BY status;

-- name: task_claim
-- hot: as on PostgreSQL.
INSERT INTO holdfast_tasks AS t (
    tenant_id, id, kind, key, owner, shared, status, priority, level, attempts, max_attempts, token, lease_micros,
    wake_at, payload, metadata, created_at, updated_at
)
VALUES (
    :tenant, :id, :kind, :key, :owner, 1, 'active', :priority, 0, 1, :max_attempts, :now, :lease, :now + :lease,
    :payload, :metadata, :now, :now
)
ON CONFLICT (tenant_id, id) DO UPDATE SET
    status = CASE WHEN t.status = 'active' AND t.attempts >= t.max_attempts THEN 'dead' ELSE 'active' END,
    error = CASE WHEN t.status = 'active' THEN 'the lease ran out' ELSE t.error END,
    owner = CASE WHEN t.status = 'active' AND t.attempts >= t.max_attempts THEN t.owner ELSE excluded.owner END,
    attempts = CASE WHEN t.status = 'active' AND t.attempts >= t.max_attempts THEN t.attempts ELSE t.attempts + 1 END,
    token = max(t.token + 1, excluded.token),
    lease_micros = CASE WHEN t.status = 'active' AND t.attempts >= t.max_attempts THEN t.lease_micros
        ELSE excluded.lease_micros END,
    wake_at = CASE WHEN t.status = 'active' AND t.attempts >= t.max_attempts THEN NULL ELSE excluded.wake_at END,
    finished_at = CASE WHEN t.status = 'active' AND t.attempts >= t.max_attempts THEN excluded.updated_at END,
    updated_at = excluded.updated_at
WHERE (t.status = 'pending' AND t.owner IN ('', excluded.owner))
    OR (t.status = 'deferred' AND t.wake_at <= :now AND t.owner IN ('', excluded.owner))
    OR (t.status = 'active' AND t.wake_at <= :now AND (t.shared OR t.owner = excluded.owner))
    OR (t.status = 'pending' AND t.wake_at <= :now AND t.shared)
    OR (t.status = 'deferred' AND t.wake_at + COALESCE(t.lease_micros, 0) <= :now AND t.shared)
RETURNING id, kind, key, parent_id, owner, shared, status, priority, level, attempts, max_attempts, token, lease_micros,
    wake_at, payload, result, error, metadata, created_at, updated_at, finished_at;

-- name: task_release_expired
-- hot: from the old end of the wake index; before each claim too.
UPDATE holdfast_tasks SET
    status = CASE WHEN status = 'active' AND attempts >= max_attempts THEN 'dead' ELSE 'pending' END,
    owner = CASE
        WHEN NOT shared OR status = 'active' AND attempts >= max_attempts THEN owner
        WHEN status = 'deferred' AND wake_at + COALESCE(lease_micros, 0) > :now THEN owner
        ELSE '' END,
    token = token + 1, error = CASE WHEN status = 'active' THEN 'the lease ran out' ELSE error END,
    wake_at = CASE WHEN shared AND status = 'deferred' AND owner <> '' AND wake_at + lease_micros > :now
        THEN wake_at + lease_micros END,
    updated_at = :now,
    finished_at = CASE WHEN status = 'active' AND attempts >= max_attempts THEN :now END
WHERE tenant_id = :tenant AND id IN (
    SELECT id FROM holdfast_tasks WHERE tenant_id = :tenant AND wake_at <= :now ORDER BY wake_at LIMIT :limit
);

-- name: task_claim_one
-- hot: the front of each kind's queue, anybody's and the owner's, then the best of these. As often as tasks are wanted,
-- in one transaction: SQLite has no LIMIT for each queue.
UPDATE holdfast_tasks SET
    status = 'active', owner = :owner, attempts = attempts + 1, token = max(token + 1, :now),
    lease_micros = :lease, wake_at = :now + :lease, updated_at = :now
WHERE tenant_id = :tenant AND id = (
    SELECT t.id FROM (
        SELECT (
            SELECT h.id FROM holdfast_tasks AS h
            WHERE h.tenant_id = :tenant AND h.kind = json_each.value AND h.owner = o.owner AND h.status = 'pending'
            ORDER BY h.priority DESC, h.created_at, h.id LIMIT 1
        ) AS id
        FROM json_each(:kinds) CROSS JOIN (SELECT '' AS owner UNION ALL SELECT :owner) AS o
    ) AS front CROSS JOIN holdfast_tasks AS t ON t.tenant_id = :tenant AND t.id = front.id
    ORDER BY t.priority DESC, t.created_at, t.id LIMIT 1
)
RETURNING id, kind, key, parent_id, owner, shared, status, priority, level, attempts, max_attempts, token, lease_micros,
    wake_at, payload, result, error, metadata, created_at, updated_at, finished_at;

-- name: task_renew
-- hot: as on PostgreSQL.
UPDATE holdfast_tasks SET
    lease_micros = COALESCE(:lease, lease_micros), wake_at = :now + COALESCE(:lease, lease_micros), updated_at = :now
WHERE tenant_id = :tenant AND id = :id AND token = :token AND status = 'active' AND wake_at > :now
    AND (:view IS NULL OR CASE :view WHEN '' THEN shared ELSE owner = :view END)
RETURNING id, kind, key, parent_id, owner, shared, status, priority, level, attempts, max_attempts, token, lease_micros,
    wake_at, payload, result, error, metadata, created_at, updated_at, finished_at;

-- name: task_settle
-- hot: as on PostgreSQL.
UPDATE holdfast_tasks SET
    status = :status, attempts = attempts - :refund,
    owner = CASE WHEN shared AND :status IN ('pending', 'deferred') THEN '' ELSE owner END,
    result = :result, error = COALESCE(:error, error), wake_at = COALESCE(:now + :delay, :until), updated_at = :now,
    finished_at = CASE WHEN :status NOT IN ('pending', 'deferred') THEN :now END
WHERE tenant_id = :tenant AND id = :id AND token = :token AND status = 'active' AND wake_at > :now
    AND (:view IS NULL OR CASE :view WHEN '' THEN shared ELSE owner = :view END)
RETURNING id, kind, key, parent_id, owner, shared, status, priority, level, attempts, max_attempts, token, lease_micros,
    wake_at, payload, result, error, metadata, created_at, updated_at, finished_at;

-- name: task_complete_many
-- hot: as task_settle, for many: they travel as one JSON list.
UPDATE holdfast_tasks SET
    status = 'completed', wake_at = NULL, updated_at = :now, finished_at = :now,
    result = (SELECT value ->> 'result' FROM json_each(:rows) WHERE value ->> 'id' = holdfast_tasks.id)
WHERE tenant_id = :tenant AND id IN (SELECT value FROM json_each(:ids)) AND status = 'active' AND wake_at > :now
    AND token = (SELECT value ->> 'token' FROM json_each(:rows) WHERE value ->> 'id' = holdfast_tasks.id)
    AND (:view IS NULL OR CASE :view WHEN '' THEN shared ELSE owner = :view END)
RETURNING id, kind, key, parent_id, owner, shared, status, priority, level, attempts, max_attempts, token, lease_micros,
    wake_at, payload, result, error, metadata, created_at, updated_at, finished_at;

-- name: task_fail
-- hot: deferred until the next attempt, or dead after the last.
UPDATE holdfast_tasks SET
    status = CASE WHEN attempts >= max_attempts THEN 'dead' ELSE 'deferred' END,
    owner = CASE WHEN shared AND attempts < max_attempts THEN '' ELSE owner END, error = :error,
    wake_at = CASE WHEN attempts < max_attempts THEN :now + :delay END, updated_at = :now,
    finished_at = CASE WHEN attempts >= max_attempts THEN :now END
WHERE tenant_id = :tenant AND id = :id AND token = :token AND status = 'active' AND wake_at > :now
    AND (:view IS NULL OR CASE :view WHEN '' THEN shared ELSE owner = :view END)
RETURNING id, kind, key, parent_id, owner, shared, status, priority, level, attempts, max_attempts, token, lease_micros,
    wake_at, payload, result, error, metadata, created_at, updated_at, finished_at;

-- name: task_defer
-- hot: of a task that nobody holds.
UPDATE holdfast_tasks SET status = 'deferred', updated_at = :now, wake_at = COALESCE(:now + :delay, :until)
WHERE tenant_id = :tenant AND id = :id AND status IN ('pending', 'deferred')
    AND (:view IS NULL OR CASE :view WHEN '' THEN shared ELSE owner = :view END)
RETURNING id, kind, key, parent_id, owner, shared, status, priority, level, attempts, max_attempts, token, lease_micros,
    wake_at, payload, result, error, metadata, created_at, updated_at, finished_at;

-- name: task_escalate
-- hot: one level up.
UPDATE holdfast_tasks SET level = level + 1, updated_at = :now
WHERE tenant_id = :tenant AND id = :id AND finished_at IS NULL AND level < 2147483647
    AND (:view IS NULL OR CASE :view WHEN '' THEN shared ELSE owner = :view END)
RETURNING id, kind, key, parent_id, owner, shared, status, priority, level, attempts, max_attempts, token, lease_micros,
    wake_at, payload, result, error, metadata, created_at, updated_at, finished_at;

-- name: task_retry
-- hot: as on PostgreSQL.
UPDATE holdfast_tasks SET
    status = 'pending', attempts = 0, token = token + 1, owner = CASE WHEN shared THEN '' ELSE owner END,
    result = NULL, finished_at = NULL, updated_at = :now
WHERE tenant_id = :tenant AND id = :id AND status IN ('failed', 'dead', 'cancelled', 'rejected')
    AND (:view IS NULL OR CASE :view WHEN '' THEN shared ELSE owner = :view END)
RETURNING id, kind, key, parent_id, owner, shared, status, priority, level, attempts, max_attempts, token, lease_micros,
    wake_at, payload, result, error, metadata, created_at, updated_at, finished_at;

-- name: task_cancel
-- hot: as on PostgreSQL; the row of the task itself comes first.
WITH RECURSIVE family (id) AS (
    SELECT id FROM holdfast_tasks WHERE tenant_id = :tenant AND id = :id AND finished_at IS NULL
    AND (:view IS NULL OR CASE :view WHEN '' THEN shared ELSE owner = :view END)
    UNION
    SELECT c.id FROM family JOIN holdfast_tasks AS c ON c.tenant_id = :tenant AND c.parent_id = family.id
    WHERE :with_children
)
UPDATE holdfast_tasks SET
    status = 'cancelled', token = token + 1, wake_at = NULL, error = COALESCE(:error, error), updated_at = :now,
    finished_at = :now
WHERE tenant_id = :tenant AND id IN (SELECT id FROM family) AND finished_at IS NULL
RETURNING id, kind, key, parent_id, owner, shared, status, priority, level, attempts, max_attempts, token, lease_micros,
    wake_at, payload, result, error, metadata, created_at, updated_at, finished_at;

-- name: task_transfer
-- hot: as on PostgreSQL.
WITH RECURSIVE family (id) AS (
    SELECT id FROM holdfast_tasks WHERE tenant_id = :tenant AND id = :id AND owner = :from_owner AND finished_at IS NULL
    UNION
    SELECT c.id FROM family JOIN holdfast_tasks AS c ON c.tenant_id = :tenant AND c.parent_id = family.id
    WHERE :with_children
)
UPDATE holdfast_tasks SET
    owner = :to_owner, shared = shared OR :to_owner = '', token = token + 1,
    attempts = CASE WHEN status = 'active' THEN attempts - 1 ELSE attempts END,
    status = CASE WHEN status = 'active' THEN 'pending' ELSE status END,
    lease_micros = CASE WHEN shared AND :to_owner <> '' THEN :lease ELSE lease_micros END,
    wake_at = CASE WHEN status = 'deferred' THEN wake_at WHEN shared AND :to_owner <> '' THEN :now + :lease END,
    updated_at = :now
WHERE tenant_id = :tenant AND id IN (SELECT id FROM family) AND owner = :from_owner AND finished_at IS NULL
RETURNING id, kind, key, parent_id, owner, shared, status, priority, level, attempts, max_attempts, token, lease_micros,
    wake_at, payload, result, error, metadata, created_at, updated_at, finished_at;

-- name: task_hand_over
-- hot: as on PostgreSQL.
UPDATE holdfast_tasks SET
    owner = COALESCE(:to_owner, CASE WHEN shared THEN '' ELSE owner END), token = token + 1,
    attempts = CASE WHEN status = 'active' THEN attempts - 1 ELSE attempts END,
    status = CASE WHEN status = 'active' THEN 'pending' ELSE status END,
    lease_micros = CASE WHEN shared THEN COALESCE(:lease, lease_micros) ELSE lease_micros END,
    wake_at = CASE WHEN status = 'deferred' THEN wake_at WHEN shared AND :to_owner IS NOT NULL THEN :now + :lease END,
    updated_at = :now
WHERE tenant_id = :tenant AND id IN (
    SELECT id FROM holdfast_tasks
    WHERE tenant_id = :tenant AND owner = :owner AND owner <> '' AND finished_at IS NULL
        AND (:to_owner IS NOT NULL OR status = 'active' OR shared)
    LIMIT :limit
);

-- name: task_delete_finished
-- hot: as on PostgreSQL.
DELETE FROM holdfast_tasks
WHERE tenant_id = :tenant AND id IN (
    SELECT o.id FROM holdfast_tasks AS o
    WHERE o.tenant_id = :tenant AND o.finished_at <= :now - :older_than
        AND (:statuses IS NULL OR o.status IN (SELECT value FROM json_each(:statuses)))
        AND NOT EXISTS (SELECT 1 FROM holdfast_tasks AS c WHERE c.tenant_id = :tenant AND c.parent_id = o.id)
    ORDER BY o.finished_at LIMIT :limit
);

-- name: task_delete
-- hot: a finished task without children.
DELETE FROM holdfast_tasks
WHERE tenant_id = :tenant AND id = :id AND finished_at IS NOT NULL
    AND (:view IS NULL OR CASE :view WHEN '' THEN shared ELSE owner = :view END)
    AND NOT EXISTS (SELECT 1 FROM holdfast_tasks AS c WHERE c.tenant_id = :tenant AND c.parent_id = :id);
