-- KeyValueStore.put, apart from its other calls because it is made most. KEYS[1] is the key's hash, KEYS[2] the sorted
-- set of the namespace's keys; ARGV are the key, the value and its lifetime in milliseconds, or nothing.

local version = redis.call('HINCRBY', KEYS[1], 'n', 1)
redis.call('HSET', KEYS[1], 'v', ARGV[2])
if ARGV[3] then
    redis.call('PEXPIRE', KEYS[1], ARGV[3])
elseif version > 1 then
    redis.call('PERSIST', KEYS[1])
end
if version == 1 then
    redis.call('ZADD', KEYS[2], 0, ARGV[1])
    -- It begins with the time, in microseconds: a key that is put again has no version that it had before.
    local now = redis.call('TIME')
    version = now[1] * 1000000 + now[2]
    redis.call('HSET', KEYS[1], 'n', string.format('%.0f', version))
end
return version
