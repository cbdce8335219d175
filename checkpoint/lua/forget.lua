-- Deletes checkpoints and blocks, and gives the namespace a new stamp. ARGV: namespace, stamp, whether to change nothing
-- and only count, epoch, the last version that the caller has seen, how many checkpoints, their versions, and the blocks
-- that no other checkpoint to that version needs. Blocks that one saved since needs stay. Returns how many checkpoints
-- went, the bytes this frees and the new epoch; false when the epoch is another, and nothing was done.
local namespace, stamp, is_dry, epoch, seen, count = unpack(ARGV, 1, 6)
local head = alive(namespace)
if not head then
    return false
end
local _, counter, _, created, updated, is = string.match(head, HEAD)
if is ~= epoch then
    return false
end
local at, goes, needed = namespace .. '\0', {}, {}
for place = 7, 6 + count do
    goes[ARGV[place]] = true
end
local since = redis.call('ZRANGEBYLEX', KEYS[3], '(' .. at .. padded(seen), '(' .. namespace .. '\1')
for place = 1, #since do
    local version = string.match(string.sub(since[place], #at + 1), '^0*(%d+)$')
    local record = not goes[version] and redis.call('HGET', KEYS[2], 'c' .. at .. version)
    for ref in string.gmatch(record and string.match(record, '^%S+ (%S+)') or '', '%d+') do
        needed[block_field(at, version, ref)] = true
    end
end
local gone, freed = 0, 0
for place = 7, 6 + count do
    local version = ARGV[place]
    local field = 'c' .. at .. version
    local record = redis.call('HGET', KEYS[2], field)
    if record then
        local _, refs, _, _, _, key, node, metadata, start = string.match(record, RECORD)
        gone = gone + 1
        freed = freed + #record
        if start then
            freed = freed - (start - 1 + (tonumber(key) or 0) + (tonumber(node) or 0) + metadata)
            freed = freed + 4 * select(2, string.gsub(refs, '%d+', ''))
        end
    end
    if is_dry ~= '1' then
        local key = record and key_of(record)
        if key then
            redis.call('HDEL', KEYS[2], 'k' .. at .. key)
            local from = at .. key
            local written = redis.call('ZRANGEBYLEX', KEYS[5], '[' .. from .. '\0', '(' .. from .. '\1')
            for index = 1, #written do
                redis.call('HDEL', KEYS[4], written[index])
                redis.call('ZREM', KEYS[5], written[index])
            end
        end
        redis.call('HDEL', KEYS[2], field)
        redis.call('ZREM', KEYS[3], at .. padded(version))
    end
end
for place = 7 + count, #ARGV do
    local field = 'b' .. at .. ARGV[place]
    if not needed[field] then
        freed = freed + redis.call('HSTRLEN', KEYS[2], field)
        if is_dry ~= '1' then
            redis.call('HDEL', KEYS[2], field)
        end
    end
end
if is_dry ~= '1' then
    local left = redis.call('ZREVRANGEBYLEX', KEYS[3], '(' .. namespace .. '\1', '[' .. at, 'LIMIT', 0, 1)[1]
    local latest = left and string.match(string.sub(left, #at + 1), '^0*(%d+)$') or '0'
    epoch = stamp
    redis.call('HSET', KEYS[1], namespace, table.concat({stamp, counter, latest, created, updated, epoch}, ' '))
end
return {gone, freed, epoch}
