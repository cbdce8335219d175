-- Namespaced items one by one: SQLite has no network that a batch would save. Each statement takes :tenant and :user_id,
-- and what needs a clock :now. Filters are the program's: it compares values as PostgreSQL's jsonb does.

-- name: item_get
-- hot: one probe of the primary key.
SELECT namespace, key, value, created_at, updated_at, ttl_micros, expires_at, :now AS now FROM holdfast_items
WHERE tenant_id = :tenant AND user_id = :user_id AND namespace = :namespace AND key = :key
    AND (expires_at IS NULL OR expires_at > :now);

-- name: item_put
-- hot: an upsert by the primary key. An expired item begins anew.
INSERT INTO holdfast_items AS i
    (tenant_id, user_id, namespace, key, value, topics, subscribers, version, ttl_micros, expires_at, created_at,
     updated_at)
VALUES (:tenant, :user_id, :namespace, :key, :value, '[]', '[]', 1, :ttl, :now + :ttl, :now, :now)
ON CONFLICT (tenant_id, user_id, namespace, key) DO UPDATE SET
    value = excluded.value,
    version = CASE WHEN i.expires_at <= excluded.updated_at THEN 1 ELSE i.version + 1 END,
    ttl_micros = excluded.ttl_micros, expires_at = excluded.expires_at,
    created_at = CASE WHEN i.expires_at <= excluded.updated_at THEN excluded.created_at ELSE i.created_at END,
    updated_at = max(i.updated_at, excluded.updated_at);

-- name: item_delete
-- hot: one probe of the primary key; vectors go by the foreign key.
DELETE FROM holdfast_items
WHERE tenant_id = :tenant AND user_id = :user_id AND namespace = :namespace AND key = :key;

-- name: item_refresh
-- hot: renews a time to live. The program asks for it once a twentieth has passed, so that most reads write nothing.
UPDATE holdfast_items SET expires_at = :now + ttl_micros
WHERE tenant_id = :tenant AND user_id = :user_id AND namespace = :namespace AND key = :key AND expires_at > :now;

-- name: list_items
-- hot: the items below a prefix of labels, a range of the primary key; sorted, since no index holds what writes change.
SELECT namespace, key, value, created_at, updated_at, ttl_micros, expires_at, :now AS now FROM holdfast_items
WHERE tenant_id = :tenant AND user_id = :user_id AND namespace >= :from AND namespace < :below
    AND (expires_at IS NULL OR expires_at > :now)
ORDER BY updated_at DESC, namespace, key LIMIT :limit OFFSET :offset;

-- name: item_namespaces
-- hot: the namespaces below a prefix, a range of the primary key.
SELECT DISTINCT namespace FROM holdfast_items
WHERE tenant_id = :tenant AND user_id = :user_id AND namespace >= :from AND namespace < :below
    AND (expires_at IS NULL OR expires_at > :now)
ORDER BY namespace;

-- name: item_drop_vectors
-- hot: what an item's texts were embedded as, before they are embedded anew.
DELETE FROM holdfast_item_vectors
WHERE tenant_id = :tenant AND user_id = :user_id AND namespace = :namespace AND key = :key;

-- name: item_put_vector
-- hot: follows item_drop_vectors.
INSERT INTO holdfast_item_vectors (tenant_id, user_id, namespace, key, place, embedding)
VALUES (:tenant, :user_id, :namespace, :key, :place, :embedding);

-- name: item_vectors
-- hot: every vector below a prefix; the program computes the distances.
SELECT v.namespace, v.key, v.embedding FROM holdfast_item_vectors AS v
WHERE v.tenant_id = :tenant AND v.user_id = :user_id AND v.namespace >= :from AND v.namespace < :below
ORDER BY v.namespace, v.key, v.place;
