-- The statements of the ground itself on PostgreSQL.

-- name: probe
-- All that is asked of a server, in one round trip on its first connection; the pid tells a pooler from the server.
SELECT pg_backend_pid() AS pid, CAST(current_setting('server_version_num') AS integer) AS version,
       pg_is_in_recovery() AS in_recovery, CAST(to_regtype('vector') AS oid) AS vector_oid,
       (SELECT extversion FROM pg_extension WHERE extname = 'vector') AS vector;

-- name: read_position
-- What a replica must have replayed to show everything committed so far. A commit that didn't wait for the disk is
-- behind what is flushed; anything else must not wait for what others have written and not committed.
SELECT CAST(CASE WHEN current_setting('synchronous_commit') = 'off' THEN pg_current_wal_insert_lsn()
                 ELSE pg_current_wal_flush_lsn() END AS text) AS position;

-- name: read_replayed
-- The same of a replica, and how old its last transaction is (seconds); a server that was promoted is asked as well.
SELECT CAST(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END AS text)
           AS position,
       CAST(CASE WHEN pg_is_in_recovery()
                 THEN EXTRACT(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) END AS double precision)
           AS age;

-- name: find_vector
-- A health poll of pgvector is this round trip.
SELECT extversion FROM pg_extension WHERE extname = 'vector' ORDER BY extversion LIMIT 1;

-- name: has_migrations
-- By the search path, as the statements that follow will find it.
SELECT to_regclass('holdfast_migrations') IS NOT NULL;

-- name: create_migrations
-- IF NOT EXISTS, under the lock: whoever comes second finds it made.
CREATE TABLE IF NOT EXISTS holdfast_migrations (
    line text COLLATE "C" NOT NULL,
    number integer NOT NULL,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (line, number)
);

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
-- Made by the first migration without a transaction; most databases have none.
SELECT to_regclass('holdfast_migrations_begun') IS NOT NULL;

-- name: create_begun
-- What runs without a transaction is recorded before and after, so that a program that died in between is seen.
CREATE TABLE IF NOT EXISTS holdfast_migrations_begun (
    line text COLLATE "C" NOT NULL,
    number integer NOT NULL,
    name text NOT NULL,
    begun_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (line, number)
);

-- name: record_begun
-- Also where a program died: the next one begins again.
INSERT INTO holdfast_migrations_begun (line, number, name) VALUES (:line, :number, :name)
ON CONFLICT (line, number) DO UPDATE SET begun_at = now();

-- name: forget_begun
-- In the transaction that records it as applied.
DELETE FROM holdfast_migrations_begun WHERE line = :line AND number = :number;

-- name: find_begun
-- There is one at the most: a migration waits for the one before.
SELECT number, name, begun_at FROM holdfast_migrations_begun WHERE line = :line ORDER BY number LIMIT 1;

-- name: record_migration
-- In the transaction of what it records.
INSERT INTO holdfast_migrations (line, number, name, checksum) VALUES (:line, :number, :name, :checksum);

-- name: limit_lock_wait
-- Local to the transaction, so that a pooler's next client is not limited.
SELECT set_config('lock_timeout', :limit, true);

-- name: lock_migrations
-- The transaction form: a session's lock would stay behind with a pooler's connection.
SELECT pg_advisory_xact_lock(hashtextextended('holdfast_migrations', 0));

-- name: find_lock_holder
-- Who has that lock. pg_locks shows its key in two halves.
SELECT a.pid, a.application_name, a.state
FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted
  AND CAST(l.classid AS bigint) = (hashtextextended('holdfast_migrations', 0) >> 32) & 4294967295
  AND CAST(l.objid AS bigint) = hashtextextended('holdfast_migrations', 0) & 4294967295
ORDER BY a.pid
LIMIT 1;

-- name: list_columns
-- One row a column of the tables in the first schema of the search path.
SELECT c.relname AS "table", a.attname AS "column", format_type(a.atttypid, a.atttypmod) AS type,
       a.attnotnull AS required, pg_get_expr(d.adbin, d.adrelid) AS "default"
FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
     LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relnamespace = CAST(quote_ident(current_schema()) AS regnamespace) AND c.relkind IN ('r', 'p')
      AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY c.relname, a.attnum
LIMIT 100000;

-- name: list_indexes
-- An index that CREATE INDEX CONCURRENTLY left behind is not valid.
SELECT t.relname AS "table", c.relname AS name, pg_get_indexdef(c.oid) AS definition, i.indisvalid AS valid
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_class AS t ON t.oid = i.indrelid
WHERE t.relnamespace = CAST(quote_ident(current_schema()) AS regnamespace) AND NOT t.relispartition
ORDER BY t.relname, c.relname
LIMIT 100000;

-- name: list_constraints
-- Not those that indexes and columns show already.
SELECT t.relname AS "table", k.conname AS name, pg_get_constraintdef(k.oid) AS definition
FROM pg_constraint AS k JOIN pg_class AS t ON t.oid = k.conrelid
WHERE t.relnamespace = CAST(quote_ident(current_schema()) AS regnamespace) AND k.contype IN ('c', 'f', 'p', 'u')
      AND NOT t.relispartition
ORDER BY t.relname, k.conname
LIMIT 100000;

-- name: enter_schema
-- Local to the transaction, which is rolled back; extensions are still found behind it.
SELECT set_config('search_path', :schema || ', ' || current_setting('search_path'), true),
       current_schema() AS before;

-- name: list_settings
-- Those that decide about durability and room; shared_buffers in bytes beside the text.
SELECT name, current_setting(name) AS value FROM pg_settings
WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit', 'autovacuum', 'max_connections',
               'superuser_reserved_connections')
UNION ALL
SELECT 'shared_buffers_bytes', CAST(CAST(setting AS bigint) * 8192 AS text) FROM pg_settings WHERE name = 'shared_buffers'
ORDER BY name
LIMIT 100;

-- name: examine_server
-- Slots that nobody reads keep the log from being removed.
SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS connections,
       (SELECT age(datfrozenxid) FROM pg_database WHERE datname = current_database()) AS oldest_age,
       (SELECT CAST(coalesce(max(CASE WHEN pg_is_in_recovery() THEN 0
                                      ELSE pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) END), 0) AS bigint)
        FROM pg_replication_slots WHERE NOT active) AS retained_bytes,
       (SELECT extversion FROM pg_extension WHERE extname = 'vector') AS vector;

-- name: list_long_transactions
-- The longest first; this one's own is young.
SELECT pid, application_name, state, CAST(extract(epoch FROM clock_timestamp() - xact_start) AS float8) AS seconds
FROM pg_stat_activity
WHERE xact_start < clock_timestamp() - make_interval(secs => CAST(:seconds AS float8))
      AND backend_type = 'client backend'
ORDER BY xact_start
LIMIT 20;

-- name: list_table_health
-- By the server's own statistics, the largest first.
SELECT relname AS name, n_live_tup AS live, n_dead_tup AS dead,
       coalesce(last_analyze, last_autoanalyze) IS NOT NULL AS analyzed
FROM pg_stat_user_tables
ORDER BY n_live_tup + n_dead_tup DESC, relname
LIMIT 1000;

-- name: list_invalid_indexes
-- What CREATE INDEX CONCURRENTLY leaves behind when it fails.
SELECT t.relname AS "table", c.relname AS name
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_class AS t ON t.oid = i.indrelid
WHERE NOT i.indisvalid
      AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index AS p WHERE p.index_relid = i.indexrelid)
ORDER BY t.relname, c.relname
LIMIT 100;

-- name: list_table_sizes
-- With indexes and TOAST, the largest first; a partitioned table's room is that of its partitions. The rows as the planner
-- estimates them, by how many there were to a page when that was last looked at; a table that has no page has no row, and
-- NULL is a table of which nobody knows yet: it is counted where this role may see all of it.
SELECT c.relname AS name, CAST(pg_total_relation_size(c.oid) AS bigint) AS bytes,
       CASE WHEN pg_relation_size(c.oid) = 0 THEN 0
            WHEN c.reltuples > 0 AND c.relpages > 0
            THEN greatest(1, CAST(CAST(c.reltuples AS float8) / c.relpages * pg_relation_size(c.oid)
                                  / CAST(current_setting('block_size') AS integer) AS bigint))
       END AS rows,
       has_table_privilege(c.oid, 'SELECT') AND NOT row_security_active(c.oid) AS countable
FROM pg_class AS c
WHERE c.relkind = 'r' AND c.relnamespace = CAST(quote_ident(current_schema()) AS regnamespace)
ORDER BY bytes DESC NULLS LAST, c.relname
LIMIT :limit;

-- name: measure_database
-- The whole database, every schema.
SELECT pg_database_size(current_database()) AS bytes;

-- name: list_tables
-- Tables in the search path, and what their tenant column is, where they have one: its type and its collation.
SELECT c.relname AS name,
       (SELECT format_type(a.atttypid, a.atttypmod) || coalesce(' ' || l.collname, '')
        FROM pg_attribute AS a LEFT JOIN pg_collation AS l ON l.oid = a.attcollation
        WHERE a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped) AS kind,
       EXISTS (SELECT 1 FROM pg_inherits AS h JOIN pg_class AS p ON p.oid = h.inhrelid
               WHERE h.inhparent = c.oid AND p.relkind = 'p') AS is_nested
FROM pg_class AS c
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND pg_table_is_visible(c.oid)
  AND c.relnamespace NOT IN (CAST('pg_catalog' AS regnamespace), CAST('information_schema' AS regnamespace))
ORDER BY c.relname
LIMIT 100000;

-- name: list_unique_keys
-- Primary keys and unique indexes of those, with their columns in order; an expression has no column's name.
SELECT c.relname AS table_name, n.relname AS name, i.indisprimary AS is_primary,
       (SELECT array_agg(CAST(a.attname AS text) ORDER BY k.place)
        FROM unnest(CAST(i.indkey AS smallint[])) WITH ORDINALITY AS k (number, place)
        LEFT JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.number
        WHERE k.place <= i.indnkeyatts) AS columns
FROM pg_index AS i
JOIN pg_class AS c ON c.oid = i.indrelid
JOIN pg_class AS n ON n.oid = i.indexrelid
WHERE i.indisunique AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND pg_table_is_visible(c.oid)
  AND c.relnamespace NOT IN (CAST('pg_catalog' AS regnamespace), CAST('information_schema' AS regnamespace))
ORDER BY c.relname, n.relname
LIMIT 100000;

-- name: list_foreign_keys
-- Foreign keys of those, column by column.
SELECT c.relname AS table_name, k.conname AS name, t.relname AS target,
       (SELECT array_agg(CAST(a.attname AS text) ORDER BY u.place)
        FROM unnest(k.conkey) WITH ORDINALITY AS u (number, place)
        JOIN pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = u.number) AS columns,
       (SELECT array_agg(CAST(a.attname AS text) ORDER BY u.place)
        FROM unnest(k.confkey) WITH ORDINALITY AS u (number, place)
        JOIN pg_attribute AS a ON a.attrelid = k.confrelid AND a.attnum = u.number) AS target_columns
FROM pg_constraint AS k
JOIN pg_class AS c ON c.oid = k.conrelid
JOIN pg_class AS t ON t.oid = k.confrelid
WHERE k.contype = 'f' AND NOT c.relispartition AND pg_table_is_visible(c.oid)
ORDER BY c.relname, k.conname
LIMIT 100000;

-- name: list_copy_columns
-- As list_columns, with what a copy must know: what the server makes itself, and the place in the key.
SELECT c.relname AS "table", a.attname AS "column", format_type(a.atttypid, a.atttypmod) AS type,
       a.attgenerated <> '' AS generated,
       array_position(CAST(i.indkey AS smallint[]), a.attnum) AS place
FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
     LEFT JOIN pg_index AS i ON i.indrelid = c.oid AND i.indisprimary
WHERE c.relnamespace = CAST(quote_ident(current_schema()) AS regnamespace) AND c.relkind IN ('r', 'p')
      AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY c.relname, a.attnum
LIMIT 100000;

-- name: list_references
-- One row a column of a foreign key.
SELECT t.relname AS "table", a.attname AS "column", r.relname AS target
FROM pg_constraint AS k JOIN pg_class AS t ON t.oid = k.conrelid JOIN pg_class AS r ON r.oid = k.confrelid
     JOIN pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = ANY(k.conkey)
WHERE k.contype = 'f' AND t.relnamespace = CAST(quote_ident(current_schema()) AS regnamespace)
      AND NOT t.relispartition
ORDER BY t.relname, r.relname, a.attnum
LIMIT 100000;

-- name: list_sequences
-- The columns that the server numbers, and the last number that each gave; NULL before the first.
SELECT q."table", q."column", q.sequence, pg_sequence_last_value(CAST(q.sequence AS regclass)) AS last
FROM (
    SELECT c.relname AS "table", a.attname AS "column",
           pg_get_serial_sequence(quote_ident(c.relname), a.attname) AS sequence
    FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND (a.attidentity <> '' OR a.atthasdef)
    WHERE c.relnamespace = CAST(quote_ident(current_schema()) AS regnamespace) AND c.relkind IN ('r', 'p')
          AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped
) AS q
WHERE q.sequence IS NOT NULL
ORDER BY q."table", q."column"
LIMIT 1000;

-- name: raise_sequence
-- So that no number is given again.
SELECT setval(CAST(:sequence AS regclass),
              greatest(CAST(:last AS bigint), pg_sequence_last_value(CAST(:sequence AS regclass))));

-- name: list_guarded
-- The tables of which row level security hides rows from this role, in silence.
SELECT c.relname AS name FROM pg_class AS c
WHERE c.relnamespace = CAST(quote_ident(current_schema()) AS regnamespace) AND c.relkind IN ('r', 'p')
      AND NOT c.relispartition AND row_security_active(c.oid)
ORDER BY c.relname
LIMIT 1000;
