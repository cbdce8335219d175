-- Copies a checkpoint as version 1 of the thread at KEYS; KEYS 6 and 7 are heads and data of its own. ARGV: namespace,
-- stamp, version. Returns whether it was there, and whether it was copied.
local namespace, stamp, version = unpack(ARGV, 1, 3)
local source = redis.call('HMGET', KEYS[6], namespace, EXPIRY)
local now, at = clock(), namespace .. '\0'
if is_over(source[2], now) then
    return {0, 0}
end
local record = redis.call('HGET', KEYS[7], 'c' .. at .. version)
if not record then
    return {0, 0}
end
local found = redis.call('HMGET', KEYS[1], namespace, EXPIRY)
local head, expiry, created = found[1], found[2], whole(now)
if is_over(expiry, now) then
    head, expiry = false, false
    drop_all()
elseif redis.call('EXISTS', KEYS[1]) == 0 then
    drop_all()
end
if head then
    local _, counter, _, made = string.match(head, HEAD)
    if counter ~= '0' then
        return {1, 0}
    end
    created = made
end
for ref in string.gmatch(string.match(record, '^%S+ (%S+)'), '%d+') do
    local block = redis.call('HGET', KEYS[7], block_field(at, version, ref))
    if block then
        redis.call('HSET', KEYS[2], block_field(at, '1', ref), block)
    end
end
redis.call('HSET', KEYS[2], 'c' .. at .. '1', '-' .. string.sub(record, #string.match(record, '^%S+') + 1))
local key = key_of(record)
if key then
    redis.call('HSET', KEYS[2], 'k' .. at .. key, '1')
end
redis.call('ZADD', KEYS[3], 0, at .. padded('1'))
redis.call('HSET', KEYS[1], namespace, table.concat({stamp, 1, 1, created, whole(now), stamp}, ' '))
if expiry then
    local expires, ttl = string.match(expiry, '^(%d+) (%S+)$')
    expires = ttl == '-' and expires or whole(now + ttl)
    redis.call('HSET', KEYS[1], EXPIRY, expires .. ' ' .. ttl)
    set_expiry(expires)
end
return {1, 1}
