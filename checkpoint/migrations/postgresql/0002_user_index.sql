-- What is exported and erased with a user: the threads with a checkpoint that names one. The index has a hash of the name,
-- for an entry of bounded size whatever the name holds, and nothing of checkpoints that name nobody.

-- up
CREATE INDEX holdfast_checkpoints_user ON holdfast_checkpoints
    (tenant_id, hashtextextended((metadata ->> 'user_id') COLLATE "C", 0), thread_id)
    WHERE namespace = '' AND (metadata -> 'user_id') IS NOT NULL;

-- down
DROP INDEX holdfast_checkpoints_user;
