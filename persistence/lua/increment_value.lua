-- KeyValueStore.increment; keys and arguments as put_value.lua has them, the value being what is added. A lifetime is
-- for a counter that begins. Redis itself refuses a value that is no whole number, before anything is changed.

local total = redis.pcall('HINCRBY', KEYS[1], 'v', ARGV[2])
if type(total) == 'table' then
    if string.find(total.err, 'not an integer') then
        return false
    end
    return total
end
if redis.call('HINCRBY', KEYS[1], 'n', 1) == 1 then
    redis.call('ZADD', KEYS[2], 0, ARGV[1])
    local now = redis.call('TIME')
    redis.call('HSET', KEYS[1], 'n', string.format('%.0f', now[1] * 1000000 + now[2]))
    if ARGV[3] then
        redis.call('PEXPIRE', KEYS[1], ARGV[3])
    end
end
if total > -9007199254740992 and total < 9007199254740992 then
    return total
end
return redis.call('HGET', KEYS[1], 'v') -- Lua's numbers end there
