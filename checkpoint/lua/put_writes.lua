-- Pending writes of a task. ARGV: namespace, stamp, whether the head may be made, the beginning of the fields, then
-- index and value of each. False: there is no head, and it may not be made.
local namespace, stamp, may_make, from = unpack(ARGV, 1, 4)
local found = redis.call('HMGET', KEYS[1], namespace, EXPIRY)
local head, expiry, now = found[1], found[2], clock()
if is_over(expiry, now) then
    head, expiry = false, false
    if may_make == '1' then
        drop_all()
    end
end
if not head then
    if may_make ~= '1' then
        return false
    end
    if redis.call('EXISTS', KEYS[1]) == 0 then
        drop_all()
    end
    redis.call('HSET', KEYS[1], namespace, table.concat({stamp, 0, 0, whole(now), whole(now), stamp}, ' '))
end
for place = 5, #ARGV, 2 do
    local field = from .. ARGV[place]
    if string.sub(ARGV[place], 1, 1) == '-' then
        redis.call('HSET', KEYS[4], field, ARGV[place + 1])
    else
        redis.call('HSETNX', KEYS[4], field, ARGV[place + 1])
    end
    redis.call('ZADD', KEYS[5], 0, field)
end
if expiry then
    set_expiry(string.match(expiry, '^%d+'))
end
return 1
