-- The index of 2, which refused each change of a checkpoint whose metadata is damaged ("malformed JSON"), and with it its
-- deletion: such a one names nobody now. Statements say the same expression, or SQLite does not find the index.

-- up
DROP INDEX holdfast_checkpoints_user;
CREATE INDEX holdfast_checkpoints_user ON holdfast_checkpoints
    (tenant_id, CASE WHEN json_valid(metadata) THEN metadata ->> '$.user_id' END, thread_id)
    WHERE CASE WHEN json_valid(metadata) THEN metadata ->> '$.user_id' END IS NOT NULL;

-- down
DROP INDEX holdfast_checkpoints_user;
CREATE INDEX holdfast_checkpoints_user ON holdfast_checkpoints (tenant_id, metadata ->> '$.user_id', thread_id)
    WHERE metadata ->> '$.user_id' IS NOT NULL;
