-- up
ALTER TABLE holdfast_threads ADD COLUMN last_seq INTEGER NOT NULL DEFAULT 0;
ALTER TABLE holdfast_threads ADD COLUMN message_version INTEGER NOT NULL DEFAULT 0;
ALTER TABLE holdfast_threads ADD COLUMN window_seq INTEGER NOT NULL DEFAULT 0;
ALTER TABLE holdfast_threads ADD COLUMN summary_seq INTEGER;
ALTER TABLE holdfast_threads ADD COLUMN parent_id TEXT;
ALTER TABLE holdfast_threads ADD COLUMN parent_seq INTEGER;

CREATE TABLE holdfast_messages (
    tenant_id TEXT NOT NULL,
    thread_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    version INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    role TEXT NOT NULL,
    content TEXT NOT NULL,
    metadata TEXT,
    input_tokens INTEGER,
    output_tokens INTEGER,
    cost_nanos INTEGER,
    latency_micros INTEGER,
    models TEXT,
    sources TEXT,
    question_seq INTEGER,
    asked_by TEXT,
    summary_through INTEGER,
    key TEXT,
    -- A JSON list; each word is a row of holdfast_message_words too.
    words TEXT,
    PRIMARY KEY (tenant_id, thread_id, seq),
    FOREIGN KEY (tenant_id, thread_id) REFERENCES holdfast_threads (tenant_id, id) ON DELETE CASCADE
);

CREATE UNIQUE INDEX holdfast_messages_key ON holdfast_messages (tenant_id, thread_id, key) WHERE key IS NOT NULL;
CREATE INDEX holdfast_messages_answers ON holdfast_messages (tenant_id, created_at, thread_id, seq)
    WHERE question_seq IS NOT NULL;
CREATE INDEX holdfast_messages_asked ON holdfast_messages (tenant_id, asked_by, created_at, thread_id, seq)
    WHERE asked_by IS NOT NULL;
CREATE INDEX holdfast_messages_summaries ON holdfast_messages (tenant_id, thread_id, summary_through)
    WHERE summary_through IS NOT NULL;

CREATE TABLE holdfast_message_words (
    tenant_id TEXT NOT NULL,
    word TEXT NOT NULL,
    thread_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, word, thread_id, seq),
    FOREIGN KEY (tenant_id, thread_id, seq) REFERENCES holdfast_messages (tenant_id, thread_id, seq) ON DELETE CASCADE
) WITHOUT ROWID;

CREATE INDEX holdfast_message_words_message ON holdfast_message_words (tenant_id, thread_id, seq);

-- One statement appends: the thread's counters follow its messages.
CREATE TRIGGER holdfast_messages_appended AFTER INSERT ON holdfast_messages BEGIN
    UPDATE holdfast_threads SET
        last_seq = max(last_seq, NEW.seq), message_version = max(message_version, NEW.version),
        window_seq = COALESCE(NEW.summary_through, window_seq),
        summary_seq = CASE WHEN NEW.summary_through IS NULL THEN summary_seq ELSE NEW.seq END,
        updated_at = max(updated_at, NEW.created_at)
    WHERE tenant_id = NEW.tenant_id AND id = NEW.thread_id;
END;

CREATE TRIGGER holdfast_messages_indexed AFTER INSERT ON holdfast_messages WHEN NEW.words IS NOT NULL BEGIN
    INSERT OR IGNORE INTO holdfast_message_words (tenant_id, word, thread_id, seq)
    SELECT NEW.tenant_id, value, NEW.thread_id, NEW.seq FROM json_each(NEW.words);
END;

CREATE TRIGGER holdfast_messages_reindexed AFTER UPDATE OF words ON holdfast_messages WHEN NEW.words IS NOT NULL BEGIN
    INSERT OR IGNORE INTO holdfast_message_words (tenant_id, word, thread_id, seq)
    SELECT NEW.tenant_id, value, NEW.thread_id, NEW.seq FROM json_each(NEW.words);
END;

-- down
DROP TABLE holdfast_message_words;
DROP TABLE holdfast_messages;
ALTER TABLE holdfast_threads DROP COLUMN last_seq;
ALTER TABLE holdfast_threads DROP COLUMN message_version;
ALTER TABLE holdfast_threads DROP COLUMN window_seq;
ALTER TABLE holdfast_threads DROP COLUMN summary_seq;
ALTER TABLE holdfast_threads DROP COLUMN parent_id;
ALTER TABLE holdfast_threads DROP COLUMN parent_seq;
