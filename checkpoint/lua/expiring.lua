-- Threads whose time to live may have run out, with the moment that was noted. KEYS: expiring. ARGV: limit.
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', whole(clock()), 'WITHSCORES', 'LIMIT', 0, ARGV[1])
