-- A save: the head is written last. ARGV: namespace, stamp, base, expected, version, key, parent (each '' where not
-- given; base '-': there must be no head) with a NUL after each, the record without its parent, block 0, then the other
-- blocks. Returns one text, for each element of an answer costs the client time.
local namespace, stamp, base, expected, version, key, parent =
    string.match(ARGV[1], '^(%Z*)%z(%Z*)%z(%Z*)%z(%Z*)%z(%Z*)%z(%Z*)%z(%Z*)%z$')
local found = redis.call('HMGET', KEYS[1], namespace, EXPIRY)
local head, expiry, now = found[1], found[2], clock()
if is_over(expiry, now) then
    if base ~= '' and base ~= '-' then
        return 'stale'
    end
    drop_all()
    head, expiry = false, false
end
local counter, latest, created, epoch = '0', '0', whole(now), stamp
if head then
    local was, _
    was, counter, latest, created, _, epoch = string.match(head, HEAD)
    if base ~= '' and was ~= base then
        return 'stale'
    end
elseif base ~= '' and base ~= '-' then
    return 'stale'
elseif redis.call('EXISTS', KEYS[1]) == 0 then
    drop_all()
end
local at = namespace .. '\0'
if key ~= '' then
    local kept = redis.call('HGET', KEYS[2], 'k' .. at .. key)
    if kept and redis.call('HEXISTS', KEYS[2], 'c' .. at .. kept) == 1 then
        return 'kept'
    end
end
local taken, held = 0, 0
local number = version
if version == '' then
    number = after(counter)
elseif padded(version) <= padded(counter) then
    taken = redis.call('HEXISTS', KEYS[2], 'c' .. at .. version)
    for ordinal = 0, 255 do
        held = math.max(held, redis.call('HEXISTS', KEYS[2], 'b' .. at .. version .. '.' .. ordinal))
    end
end
if taken == 1 or held == 1 or (expected ~= '' and expected ~= latest) then
    return 'refused ' .. latest .. ' ' .. taken .. ' ' .. held
end
local order = padded(number)
local is_latest = order > padded(latest)
if parent == '' then
    parent = is_latest and latest ~= '0' and latest or '-'
end
local field = at .. number
local values = {'c' .. field, parent .. ' ' .. ARGV[2]}
if key ~= '' then
    values[3], values[4] = 'k' .. at .. key, number
end
local count = #values
for place = 3, #ARGV do
    if ARGV[place] ~= '' then
        values[count + 1], values[count + 2] = 'b' .. field .. '.' .. place - 3, ARGV[place]
        count = count + 2
    end
end
redis.call('HSET', KEYS[2], unpack(values))
redis.call('ZADD', KEYS[3], 0, at .. order)
if order > padded(counter) then
    counter = number
else
    epoch = stamp
end
local text = table.concat({stamp, counter, is_latest and number or latest, created, whole(now), epoch}, ' ')
if expiry then
    local expires, ttl = string.match(expiry, '^(%d+) (%S+)$')
    if ttl ~= '-' then
        expires = whole(now + ttl)
    end
    redis.call('HSET', KEYS[1], namespace, text, EXPIRY, expires .. ' ' .. ttl)
    set_expiry(expires)
else
    redis.call('HSET', KEYS[1], namespace, text)
end
return 'saved ' .. number .. ' ' .. parent .. ' ' .. counter
