-- What is exported and erased with a user: the threads with a checkpoint that names one. Of which namespace it is, the
-- index must not say: SQLite would plan every statement anew that compares the namespace with a parameter.

-- up
CREATE INDEX holdfast_checkpoints_user ON holdfast_checkpoints (tenant_id, metadata ->> '$.user_id', thread_id)
    WHERE metadata ->> '$.user_id' IS NOT NULL;

-- down
DROP INDEX holdfast_checkpoints_user;
