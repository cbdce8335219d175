-- The statements of the ground itself on SQLite.

-- name: has_migrations
-- As on PostgreSQL.
SELECT count(*) FROM sqlite_master WHERE name = 'holdfast_migrations';

-- name: create_migrations
-- IF NOT EXISTS, under the write lock: whoever comes second finds it made.
CREATE TABLE IF NOT EXISTS holdfast_migrations (
    line TEXT NOT NULL,
    number INTEGER NOT NULL,
    name TEXT NOT NULL,
    checksum TEXT NOT NULL,
    applied_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    PRIMARY KEY (line, number)
) WITHOUT ROWID;

-- name: list_applied
-- A line has as many rows as it has files.
SELECT number, name, checksum FROM holdfast_migrations WHERE line = :line ORDER BY number LIMIT 10000;

-- name: record_migration
-- In the transaction of what it records.
INSERT INTO holdfast_migrations (line, number, name, checksum) VALUES (:line, :number, :name, :checksum);
