-- Vectors stand in a narrow table of their own: beside texts they would waste half of each page. A position is never
-- used twice, so a process that holds vectors in memory reads only those past the last that it saw; `generation` counts
-- the writes to a tenant's collection, `removals` those that took a vector away.
-- up
CREATE TABLE holdfast_collections (
    collection TEXT NOT NULL PRIMARY KEY,
    dimensions INTEGER NOT NULL,
    metric TEXT NOT NULL,
    model TEXT,
    created_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE holdfast_collection_states (
    tenant_id TEXT NOT NULL,
    collection TEXT NOT NULL,
    generation INTEGER NOT NULL,
    removals INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, collection)
) WITHOUT ROWID;
CREATE TABLE holdfast_vectors (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    embedding BLOB NOT NULL
);
CREATE TABLE holdfast_documents (
    tenant_id TEXT NOT NULL,
    collection TEXT NOT NULL,
    id TEXT NOT NULL,
    position INTEGER NOT NULL,
    content TEXT NOT NULL,
    metadata TEXT NOT NULL,
    version INTEGER NOT NULL DEFAULT 1,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, collection, id)
);
CREATE UNIQUE INDEX holdfast_documents_position ON holdfast_documents (tenant_id, collection, position);

-- down
DROP TABLE holdfast_documents;
DROP TABLE holdfast_vectors;
DROP TABLE holdfast_collection_states;
DROP TABLE holdfast_collections;
