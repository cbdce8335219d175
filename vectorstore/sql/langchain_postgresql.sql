-- Documents of other tables of the same database become ours without leaving it. Behind /* source */ comes a SELECT with
-- the columns id, content, metadata and embedding, behind /* table */ the name of the collection's table.

-- name: import_refused
-- The first document that a store would refuse, and why, so that an import refuses it before anything is written.
SELECT n.id, CASE
    WHEN n.id IS NULL OR octet_length(n.id) NOT BETWEEN 1 AND :id_bytes THEN 'has an id that is empty or too long'
    WHEN n.embedding IS NULL THEN 'has no embedding'
    WHEN vector_dims(n.embedding) <> :dimensions THEN 'has an embedding of other dimensions than the collection'
    WHEN jsonb_typeof(n.metadata) <> 'object' THEN 'has metadata that are no object'
    ELSE 'has an embedding whose length the metric can''t take'
END AS reason
FROM /* source */ holdfast_documents AS n
WHERE n.id IS NULL OR octet_length(n.id) NOT BETWEEN 1 AND :id_bytes OR n.embedding IS NULL
   OR vector_dims(n.embedding) <> :dimensions OR jsonb_typeof(n.metadata) <> 'object'
   OR vector_norm(n.embedding) > :longest OR vector_norm(n.embedding) < :shortest
ORDER BY n.id
LIMIT 1;

-- name: import_rows
-- In the order of the ids, as writers lock them; what was imported before is replaced, as storing it again would.
INSERT INTO /* table */ holdfast_documents AS d (tenant_id, namespace, id, content, metadata, embedding)
SELECT :tenant, :namespace, n.id, n.content, n.metadata, n.embedding
FROM /* source */ holdfast_documents AS n
ORDER BY n.id COLLATE "C"
ON CONFLICT (tenant_id, namespace, id) DO UPDATE SET
    content = excluded.content, metadata = excluded.metadata, embedding = excluded.embedding,
    source = NULL, expires_at = NULL, version = d.version + 1, updated_at = now();
