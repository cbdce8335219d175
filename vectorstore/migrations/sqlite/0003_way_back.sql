-- What PostgreSQL's way back from 2 lacks: here 2 itself takes away what an older program can't tell apart.
-- up
SELECT 1;

-- down
SELECT 1;
