-- Forgets threads that are not there and were not registered lately: who registered one may be about to make it. KEYS:
-- threads, registered. ARGV: the microseconds that "lately" is, then the threads.
local cutoff = clock() - ARGV[1]
for place = 2, #ARGV do
    local moment = redis.call('ZSCORE', KEYS[2], ARGV[place])
    if not moment or tonumber(moment) < cutoff then
        redis.call('ZREM', KEYS[1], ARGV[place])
        redis.call('ZREM', KEYS[2], ARGV[place])
    end
end
return 1
