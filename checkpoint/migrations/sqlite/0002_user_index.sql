-- What is exported and erased with a user: the threads with a checkpoint that names one.

-- up
CREATE INDEX holdfast_checkpoints_user ON holdfast_checkpoints (tenant_id, metadata ->> '$.user_id', thread_id)
    WHERE namespace = '' AND metadata ->> '$.user_id' IS NOT NULL;

-- down
DROP INDEX holdfast_checkpoints_user;
