-- up
ALTER TABLE holdfast_threads
    -- The newest message ever appended; a number is never used twice, so that a cursor never skips a message.
    ADD COLUMN last_seq bigint NOT NULL DEFAULT 0,
    -- Counts the changes of the messages; version counts those of the thread's own fields.
    ADD COLUMN message_version bigint NOT NULL DEFAULT 0,
    -- The context begins after window_seq, with the summary before it.
    ADD COLUMN window_seq bigint NOT NULL DEFAULT 0,
    ADD COLUMN summary_seq bigint,
    -- The key of the newest append: under the row lock it finds the append that a retry waited for.
    ADD COLUMN last_key text COLLATE "C",
    ADD COLUMN parent_id text COLLATE "C",
    ADD COLUMN parent_seq bigint;

CREATE TABLE holdfast_messages (
    seq bigint NOT NULL,
    version bigint NOT NULL,
    created_at timestamptz NOT NULL,
    tenant_id text COLLATE "C" NOT NULL,
    thread_id text COLLATE "C" NOT NULL,
    role text NOT NULL,
    -- Not jsonb: the order of keys, NUL, lone surrogates and the digits of numbers stay.
    content json NOT NULL,
    metadata jsonb,
    input_tokens bigint,
    output_tokens bigint,
    cost_nanos bigint,
    latency_micros bigint,
    models json,
    sources json,
    question_seq bigint,
    asked_by text COLLATE "C",
    summary_through bigint,
    key text COLLATE "C",
    words tsvector,
    PRIMARY KEY (tenant_id, thread_id, seq),
    FOREIGN KEY (tenant_id, thread_id) REFERENCES holdfast_threads (tenant_id, id) ON DELETE CASCADE
);

-- Each holds only the messages that use it, and costs the others nothing.
CREATE UNIQUE INDEX holdfast_messages_key ON holdfast_messages (tenant_id, thread_id, key) WHERE key IS NOT NULL;
CREATE INDEX holdfast_messages_answers ON holdfast_messages (tenant_id, created_at, thread_id, seq)
    WHERE question_seq IS NOT NULL;
CREATE INDEX holdfast_messages_asked ON holdfast_messages (tenant_id, asked_by, created_at, thread_id, seq)
    WHERE asked_by IS NOT NULL;
CREATE INDEX holdfast_messages_summaries ON holdfast_messages (tenant_id, thread_id, summary_through)
    WHERE summary_through IS NOT NULL;
CREATE INDEX holdfast_messages_words ON holdfast_messages USING gin (words) WHERE words IS NOT NULL;

-- down
DROP TABLE holdfast_messages;
ALTER TABLE holdfast_threads
    DROP COLUMN last_seq,
    DROP COLUMN message_version,
    DROP COLUMN window_seq,
    DROP COLUMN summary_seq,
    DROP COLUMN last_key,
    DROP COLUMN parent_id,
    DROP COLUMN parent_seq;
