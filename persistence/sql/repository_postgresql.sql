-- The statements of Repository on PostgreSQL.

-- name: list_table_columns
-- The columns of a table as this connection's search_path finds it, in their order.
SELECT attname AS name, format_type(atttypid, NULL) AS type, attnotnull AS required FROM pg_attribute
WHERE attrelid = to_regclass(:table) AND attnum > 0 AND NOT attisdropped ORDER BY attnum LIMIT 2000;
