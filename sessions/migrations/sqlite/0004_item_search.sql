-- up
-- As on PostgreSQL; an embedding is its float32 numbers, little-endian.
CREATE TABLE holdfast_item_vectors (
    tenant_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    namespace TEXT NOT NULL,
    key TEXT NOT NULL,
    place INTEGER NOT NULL,
    embedding BLOB NOT NULL,
    PRIMARY KEY (tenant_id, user_id, namespace, key, place),
    FOREIGN KEY (tenant_id, user_id, namespace, key)
        REFERENCES holdfast_items (tenant_id, user_id, namespace, key) ON DELETE CASCADE
);

-- down
DROP TABLE holdfast_item_vectors;
