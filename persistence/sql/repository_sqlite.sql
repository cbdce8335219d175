-- The statements of Repository on SQLite.

-- name: list_table_columns
-- As on PostgreSQL.
SELECT name, lower(type) AS type, "notnull" OR pk AS required FROM pragma_table_info(:table) ORDER BY cid LIMIT 2000;
