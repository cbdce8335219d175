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
SELECT line, number, name, checksum, applied_at FROM holdfast_migrations
WHERE line = :line ORDER BY number LIMIT 10000;

-- name: list_history
-- The newest first; two of one moment by their numbers.
SELECT line, number, name, checksum, applied_at FROM holdfast_migrations
WHERE line = :line ORDER BY applied_at DESC, number DESC LIMIT :limit;

-- name: forget_migration
-- In the transaction that undid it.
DELETE FROM holdfast_migrations WHERE line = :line AND number = :number;

-- name: has_begun
-- As on PostgreSQL.
SELECT count(*) FROM sqlite_master WHERE name = 'holdfast_migrations_begun';

-- name: create_begun
-- As on PostgreSQL.
CREATE TABLE IF NOT EXISTS holdfast_migrations_begun (
    line TEXT NOT NULL,
    number INTEGER NOT NULL,
    name TEXT NOT NULL,
    begun_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    PRIMARY KEY (line, number)
) WITHOUT ROWID;

-- name: record_begun
-- Also where a program died: the next one begins again.
INSERT INTO holdfast_migrations_begun (line, number, name) VALUES (:line, :number, :name)
ON CONFLICT (line, number) DO UPDATE SET begun_at = excluded.begun_at;

-- name: forget_begun
-- In the transaction that records it as applied.
DELETE FROM holdfast_migrations_begun WHERE line = :line AND number = :number;

-- name: find_begun
-- There is one at the most: a migration waits for the one before.
SELECT number, name, begun_at FROM holdfast_migrations_begun WHERE line = :line ORDER BY number LIMIT 1;

-- name: record_migration
-- In the transaction of what it records.
INSERT INTO holdfast_migrations (line, number, name, checksum) VALUES (:line, :number, :name, :checksum);

-- name: list_columns
-- One row a column; a hidden column is a generated one, which counts too.
SELECT m.name AS "table", c.name AS "column", c.type AS type, c."notnull" AS required, c.dflt_value AS "default"
FROM sqlite_master AS m, pragma_table_xinfo(m.name) AS c
WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite\_%' ESCAPE '\'
ORDER BY m.name, c.cid
LIMIT 100000;

-- name: list_indexes
-- Those of keys are shown by the table's own text.
SELECT tbl_name AS "table", name, sql AS definition, 1 AS valid FROM sqlite_master
WHERE type IN ('index', 'trigger') AND sql IS NOT NULL
ORDER BY tbl_name, name
LIMIT 100000;

-- name: list_constraints
-- SQLite keeps them in the text of the table alone; the primary and foreign keys are told by pragmas.
SELECT m.name AS "table", 'primary key' AS name, group_concat(c.name, ', ') AS definition
FROM sqlite_master AS m, (SELECT t.name AS owner, x.name, x.pk FROM sqlite_master AS t, pragma_table_xinfo(t.name) AS x
                          WHERE t.type = 'table' AND x.pk > 0 ORDER BY t.name, x.pk) AS c
WHERE m.type = 'table' AND c.owner = m.name
GROUP BY m.name
UNION ALL
SELECT m.name, 'foreign key ' || f.id || '.' || f.seq,
       f."from" || ' references ' || f."table" || '.' || coalesce(f."to", '') || ' on delete ' || f.on_delete
FROM sqlite_master AS m, pragma_foreign_key_list(m.name) AS f
WHERE m.type = 'table'
ORDER BY 1, 2
LIMIT 100000;

-- name: measure_database
-- The file without its write-ahead log.
SELECT p.page_count * s.page_size AS bytes FROM pragma_page_count() AS p, pragma_page_size() AS s;

-- name: has_page_statistics
-- Only where the SQLite library was built to.
SELECT count(*) FROM pragma_module_list WHERE name = 'dbstat';

-- name: list_table_sizes
-- With indexes, the largest first, of which each page is read. A page that isn't overflow has a cell for each of its rows;
-- those between the leaves are rows only in a table WITHOUT ROWID.
SELECT m.tbl_name AS name, sum(s.pgsize) AS bytes,
       sum(CASE WHEN m.type = 'table' AND (t.wr OR s.pagetype = 'leaf') THEN s.ncell ELSE 0 END) AS rows
FROM pragma_table_list AS t JOIN sqlite_master AS m ON m.tbl_name = t.name JOIN dbstat AS s ON s.name = m.name
WHERE t.schema = 'main' AND t.name NOT LIKE 'sqlite\_%' ESCAPE '\'
GROUP BY m.tbl_name
ORDER BY bytes DESC, m.tbl_name
LIMIT :limit;

-- name: list_stored_tables
-- Not virtual ones, which keep nothing themselves.
SELECT name FROM sqlite_master
WHERE type = 'table' AND rootpage > 0 AND name NOT LIKE 'sqlite\_%' ESCAPE '\'
ORDER BY name
LIMIT 100000;

-- name: list_copy_columns
-- As list_columns, with what a copy must know: what SQLite makes itself, and the place in the key. Virtual tables, and those
-- that they keep their rows in, are left out.
SELECT m.name AS "table", c.name AS "column", c.type AS type, c.hidden <> 0 AS generated, nullif(c.pk, 0) AS place
FROM pragma_table_list AS m, pragma_table_xinfo(m.name) AS c
WHERE m.schema = 'main' AND m.type = 'table' AND m.name NOT LIKE 'sqlite\_%' ESCAPE '\'
ORDER BY m.name, c.cid
LIMIT 100000;

-- name: list_references
-- One row a column of a foreign key.
SELECT m.name AS "table", f."from" AS "column", f."table" AS target
FROM sqlite_master AS m, pragma_foreign_key_list(m.name) AS f
WHERE m.type = 'table'
ORDER BY m.name, f.id, f.seq
LIMIT 100000;

-- name: list_triggers
-- Those that keep a virtual table in step have no other way to fill it.
SELECT t.tbl_name AS "table", t.name, t.sql AS definition,
       EXISTS (SELECT 1 FROM pragma_table_list AS v
               WHERE v.type = 'virtual' AND instr(t.sql, 'INSERT INTO ' || v.name || ' ') > 0) AS fills_virtual
FROM sqlite_master AS t
WHERE t.type = 'trigger'
ORDER BY t.tbl_name, t.name
LIMIT 1000;

-- name: has_sequences
-- SQLite makes the table with the first AUTOINCREMENT.
SELECT count(*) FROM sqlite_master WHERE name = 'sqlite_sequence';

-- name: read_sequence
-- The largest rowid that a table with AUTOINCREMENT ever had.
SELECT seq FROM sqlite_sequence WHERE name = :table;

-- name: raise_sequence
-- So that no rowid is given again.
UPDATE sqlite_sequence SET seq = max(seq, :last) WHERE name = :table;

-- name: begin_sequence
-- The same where the table never had a row: the sequence has no row either, and no key to conflict on.
INSERT INTO sqlite_sequence (name, seq)
SELECT :table, :last WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = :table);
