-- Threads that were not registered lately, those first that were not for longest. KEYS: threads, registered. ARGV: the
-- microseconds that "lately" is, limit.
return redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', '(' .. whole(clock() - ARGV[1]), 'LIMIT', 0, ARGV[2])
