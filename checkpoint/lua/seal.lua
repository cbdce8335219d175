-- Exchanges values that are still what they were, and returns how many. ARGV: which of KEYS, then field, SHA-1 of the
-- value as it was read, and the new value, in turns.
local key, count = KEYS[tonumber(ARGV[1])], 0
for place = 2, #ARGV, 3 do
    local value = redis.call('HGET', key, ARGV[place])
    if value and redis.sha1hex(value) == ARGV[place + 1] then
        redis.call('HSET', key, ARGV[place], ARGV[place + 2])
        count = count + 1
    end
end
return count
