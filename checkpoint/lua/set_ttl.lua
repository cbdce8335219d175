-- ARGV: microseconds to live ('': for ever), whether each save begins them anew. Returns when it expires, 0 for never,
-- false where there is no thread.
local now = clock()
if redis.call('EXISTS', KEYS[1]) == 0 or is_over(redis.call('HGET', KEYS[1], EXPIRY), now) then
    return false
end
if ARGV[1] == '' then
    redis.call('HDEL', KEYS[1], EXPIRY)
    for place = 1, 5 do
        redis.call('PERSIST', KEYS[place])
    end
    return '0'
end
local expires = whole(now + ARGV[1])
redis.call('HSET', KEYS[1], EXPIRY, expires .. ' ' .. (ARGV[2] == '1' and ARGV[1] or '-'))
set_expiry(expires)
return expires
