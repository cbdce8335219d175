-- up
-- What PostgreSQL's refs need: here they are text already, so that nothing changes.
SELECT refs FROM holdfast_checkpoints LIMIT 0;

-- down
SELECT refs FROM holdfast_checkpoints LIMIT 0;
