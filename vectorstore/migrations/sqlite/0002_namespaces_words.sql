-- Namespaces become part of the key, documents may have a source and an end, and words may be searched. Triggers keep
-- the states, the vectors and the words in step with the documents, whoever writes them: `generation` grows with each
-- change of a namespace's documents, `removals` with each that took a vector away or moved it; by how much chance says,
-- so that a file that was set back never comes to the same ones by another way.
-- up
ALTER TABLE holdfast_collections ADD COLUMN language TEXT;
ALTER TABLE holdfast_documents RENAME TO holdfast_documents_before;
DROP INDEX holdfast_documents_position;
CREATE TABLE holdfast_documents (
    tenant_id TEXT NOT NULL,
    collection TEXT NOT NULL,
    namespace TEXT NOT NULL,
    id TEXT NOT NULL,
    position INTEGER NOT NULL,
    content TEXT NOT NULL,
    metadata TEXT NOT NULL,
    source TEXT,
    expires_at INTEGER,
    version INTEGER NOT NULL DEFAULT 1,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, collection, namespace, id)
);
INSERT INTO holdfast_documents (
    tenant_id, collection, namespace, id, position, content, metadata, version, created_at, updated_at
)
SELECT tenant_id, collection, 'default', id, position, content, metadata, version, created_at, updated_at
FROM holdfast_documents_before;
DROP TABLE holdfast_documents_before;
-- With expires_at, so that the vectors are read without the documents.
CREATE INDEX holdfast_documents_position
    ON holdfast_documents (tenant_id, collection, namespace, position, expires_at);
CREATE INDEX holdfast_documents_source ON holdfast_documents (tenant_id, collection, namespace, source)
    WHERE source IS NOT NULL;
CREATE INDEX holdfast_documents_expiry ON holdfast_documents (tenant_id, collection, expires_at)
    WHERE expires_at IS NOT NULL;
DROP TABLE holdfast_collection_states;
CREATE TABLE holdfast_collection_states (
    tenant_id TEXT NOT NULL,
    collection TEXT NOT NULL,
    namespace TEXT NOT NULL,
    generation INTEGER NOT NULL,
    removals INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, collection, namespace)
) WITHOUT ROWID;
INSERT INTO holdfast_collection_states (tenant_id, collection, namespace, generation, removals)
SELECT tenant_id, collection, namespace, 1 + (random() & 1048575), 0
FROM holdfast_documents GROUP BY tenant_id, collection, namespace;
CREATE TRIGGER holdfast_documents_added AFTER INSERT ON holdfast_documents BEGIN
    INSERT INTO holdfast_collection_states (tenant_id, collection, namespace, generation, removals)
    VALUES (NEW.tenant_id, NEW.collection, NEW.namespace, 1 + (random() & 1048575), 0)
    ON CONFLICT (tenant_id, collection, namespace)
    DO UPDATE SET generation = generation + 1 + (random() & 1048575);
END;
CREATE TRIGGER holdfast_documents_changed AFTER UPDATE ON holdfast_documents BEGIN
    UPDATE holdfast_collection_states
    SET generation = generation + 1 + (random() & 1048575),
        removals = removals + (OLD.position <> NEW.position) * (1 + (random() & 1048575))
    WHERE tenant_id = NEW.tenant_id AND collection = NEW.collection AND namespace = NEW.namespace;
    DELETE FROM holdfast_vectors WHERE position = OLD.position AND OLD.position <> NEW.position;
END;
CREATE TRIGGER holdfast_documents_removed AFTER DELETE ON holdfast_documents BEGIN
    UPDATE holdfast_collection_states
    SET generation = generation + 1 + (random() & 1048575), removals = removals + 1 + (random() & 1048575)
    WHERE tenant_id = OLD.tenant_id AND collection = OLD.collection AND namespace = OLD.namespace;
    DELETE FROM holdfast_vectors WHERE position = OLD.position;
END;
-- The words alone, by the documents' positions: the contents are in the documents. The triggers know what was there,
-- which such a table must be told when it goes.
CREATE VIRTUAL TABLE holdfast_words_english
    USING fts5(content, content = '', tokenize = 'porter unicode61 remove_diacritics 2');
CREATE VIRTUAL TABLE holdfast_words_simple USING fts5(content, content = '', tokenize = 'unicode61 remove_diacritics 2');
CREATE VIRTUAL TABLE holdfast_terms_english USING fts5vocab(holdfast_words_english, 'row');
CREATE VIRTUAL TABLE holdfast_terms_simple USING fts5vocab(holdfast_words_simple, 'row');
CREATE TRIGGER holdfast_words_english_added AFTER INSERT ON holdfast_documents
WHEN (SELECT language FROM holdfast_collections WHERE collection = NEW.collection) = 'english' BEGIN
    INSERT INTO holdfast_words_english (rowid, content) VALUES (NEW.position, NEW.content);
END;
CREATE TRIGGER holdfast_words_english_changed AFTER UPDATE OF position, content ON holdfast_documents
WHEN (SELECT language FROM holdfast_collections WHERE collection = NEW.collection) = 'english' BEGIN
    INSERT INTO holdfast_words_english (holdfast_words_english, rowid, content)
    VALUES ('delete', OLD.position, OLD.content);
    INSERT INTO holdfast_words_english (rowid, content) VALUES (NEW.position, NEW.content);
END;
CREATE TRIGGER holdfast_words_english_removed AFTER DELETE ON holdfast_documents
WHEN (SELECT language FROM holdfast_collections WHERE collection = OLD.collection) = 'english' BEGIN
    INSERT INTO holdfast_words_english (holdfast_words_english, rowid, content)
    VALUES ('delete', OLD.position, OLD.content);
END;
CREATE TRIGGER holdfast_words_simple_added AFTER INSERT ON holdfast_documents
WHEN (SELECT language FROM holdfast_collections WHERE collection = NEW.collection) = 'simple' BEGIN
    INSERT INTO holdfast_words_simple (rowid, content) VALUES (NEW.position, NEW.content);
END;
CREATE TRIGGER holdfast_words_simple_changed AFTER UPDATE OF position, content ON holdfast_documents
WHEN (SELECT language FROM holdfast_collections WHERE collection = NEW.collection) = 'simple' BEGIN
    INSERT INTO holdfast_words_simple (holdfast_words_simple, rowid, content)
    VALUES ('delete', OLD.position, OLD.content);
    INSERT INTO holdfast_words_simple (rowid, content) VALUES (NEW.position, NEW.content);
END;
CREATE TRIGGER holdfast_words_simple_removed AFTER DELETE ON holdfast_documents
WHEN (SELECT language FROM holdfast_collections WHERE collection = OLD.collection) = 'simple' BEGIN
    INSERT INTO holdfast_words_simple (holdfast_words_simple, rowid, content)
    VALUES ('delete', OLD.position, OLD.content);
END;

-- down
DROP TRIGGER holdfast_words_simple_removed;
DROP TRIGGER holdfast_words_simple_changed;
DROP TRIGGER holdfast_words_simple_added;
DROP TRIGGER holdfast_words_english_removed;
DROP TRIGGER holdfast_words_english_changed;
DROP TRIGGER holdfast_words_english_added;
DROP TABLE holdfast_terms_simple;
DROP TABLE holdfast_terms_english;
DROP TABLE holdfast_words_simple;
DROP TABLE holdfast_words_english;
DROP TRIGGER holdfast_documents_removed;
DROP TRIGGER holdfast_documents_changed;
DROP TRIGGER holdfast_documents_added;
DROP INDEX holdfast_documents_expiry;
DROP INDEX holdfast_documents_source;
DROP INDEX holdfast_documents_position;
-- What an older program can't tell apart goes: other namespaces, and what has a time to go.
DELETE FROM holdfast_vectors WHERE position IN (
    SELECT position FROM holdfast_documents WHERE namespace <> 'default' OR expires_at IS NOT NULL
);
ALTER TABLE holdfast_documents RENAME TO holdfast_documents_after;
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
INSERT INTO holdfast_documents (
    tenant_id, collection, id, position, content, metadata, version, created_at, updated_at
)
SELECT tenant_id, collection, id, position, content, metadata, version, created_at, updated_at
FROM holdfast_documents_after WHERE namespace = 'default' AND expires_at IS NULL;
DROP TABLE holdfast_documents_after;
CREATE UNIQUE INDEX holdfast_documents_position ON holdfast_documents (tenant_id, collection, position);
DROP TABLE holdfast_collection_states;
CREATE TABLE holdfast_collection_states (
    tenant_id TEXT NOT NULL,
    collection TEXT NOT NULL,
    generation INTEGER NOT NULL,
    removals INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, collection)
) WITHOUT ROWID;
INSERT INTO holdfast_collection_states (tenant_id, collection, generation, removals)
SELECT DISTINCT tenant_id, collection, 1, 0 FROM holdfast_documents;
ALTER TABLE holdfast_collections DROP COLUMN language;
