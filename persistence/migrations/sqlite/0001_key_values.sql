-- up
-- As on PostgreSQL. A number that no longer fits 64 bits would become a REAL: it is refused instead.
CREATE TABLE holdfast_key_values (
    tenant_id TEXT NOT NULL,
    namespace TEXT NOT NULL,
    key TEXT NOT NULL,
    value BLOB,
    number INTEGER CHECK (typeof(number) IN ('integer', 'null')),
    version INTEGER NOT NULL,
    expires_at INTEGER,
    PRIMARY KEY (tenant_id, namespace, key),
    CHECK ((value IS NULL) <> (number IS NULL))
);

CREATE INDEX holdfast_key_values_expiry ON holdfast_key_values (tenant_id, namespace, expires_at)
WHERE expires_at IS NOT NULL;

CREATE TABLE holdfast_leases (
    tenant_id TEXT NOT NULL,
    name TEXT NOT NULL,
    holder TEXT NOT NULL,
    fence INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, name)
);

-- down
DROP TABLE holdfast_leases;
DROP TABLE holdfast_key_values;
