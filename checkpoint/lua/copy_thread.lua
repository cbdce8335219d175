-- Copies a whole thread to KEYS; KEYS 6 to 10 are its own. ARGV: stamp, and after how many milliseconds the copy expires,
-- if it does. Returns how many checkpoints it has, -1 when the new thread is there, false when it isn't itself.
local now = clock()
if redis.call('EXISTS', KEYS[6]) == 0 or is_over(redis.call('HGET', KEYS[6], EXPIRY), now) then
    return false
end
if redis.call('EXISTS', KEYS[1]) == 1 and not is_over(redis.call('HGET', KEYS[1], EXPIRY), now) then
    return -1
end
drop_all()
for place = 1, 5 do
    redis.call('COPY', KEYS[place + 5], KEYS[place])
    redis.call('PERSIST', KEYS[place])
end
redis.call('HDEL', KEYS[1], EXPIRY)
local heads = redis.call('HGETALL', KEYS[1])
for place = 1, #heads, 2 do
    local _, counter, latest = string.match(heads[place + 1], HEAD)
    local moment = whole(now)
    redis.call('HSET', KEYS[1], heads[place], table.concat({ARGV[1], counter, latest, moment, moment, ARGV[1]}, ' '))
end
for place = 1, ARGV[2] and 5 or 0 do
    redis.call('PEXPIRE', KEYS[place], ARGV[2])
end
return redis.call('ZCARD', KEYS[3])
