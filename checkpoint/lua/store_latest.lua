-- Stores what the stamp ARGV[2] needs. An entry of the stamp ARGV[1], on which the save was built, is brought forward
-- by the blocks that are new; '' begins anew. Then what isn't needed any more goes, or the whole entry, if it lacks a
-- block or is larger than ARGV[4] bytes.
local key, count = KEYS[1], tonumber(ARGV[5])
if ARGV[1] == '' then
    redis.call('DEL', key)
elseif redis.call('HGET', key, 'stamp') ~= ARGV[1] then
    return 0
end
for i = 6 + count, #ARGV, 2 do
    redis.call('HSET', key, ARGV[i], ARGV[i + 1])
end
local size, needed = 0, {stamp = true}
for i = 6, 5 + count do
    local length = redis.call('HSTRLEN', key, ARGV[i])
    needed[ARGV[i]] = true
    size = size + length
    if length == 0 or size > tonumber(ARGV[4]) then
        redis.call('DEL', key)
        return 0
    end
end
for _, field in ipairs(redis.call('HKEYS', key)) do
    if not needed[field] then
        redis.call('HDEL', key, field)
    end
end
redis.call('HSET', key, 'stamp', ARGV[2])
redis.call('PEXPIRE', key, ARGV[3])
return 1
