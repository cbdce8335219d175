-- What scripts have in common: of these parts, with an empty line between two, each script gets those that it names.
-- KEYS of a thread: 1 heads, 2 data, 3 versions, 4 writes, 5 tasks (docs/formats.md). Versions are decimal texts, for a Lua number is a double and holds whole numbers to 2^53 only.

local EXPIRY = '\0expiry'

local CHUNK = 1000

-- Stamp, counter, latest, created, updated, epoch.
local HEAD = '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$'

local RECORD = '^([-%d]+) ([-%d,]+) (%d+) ([-%d]+) ([-t]) ([-%d]+) ([-%d]+) (%d+)\n()'

-- Microseconds since 1970 by the server's clock.
local function clock()
    local now = redis.call('TIME')
    return now[1] * 1000000 + now[2]
end

local function whole(number)
    return string.format('%.0f', number)
end

-- A version so that texts are ordered as numbers are.
local function padded(version)
    return string.rep('0', 19 - #version) .. version
end

local function after(version)
    if #version < 15 then
        return whole(version + 1)
    end
    local high, low = string.sub(version, 1, -10), string.sub(version, -9) + 1
    if low == 1000000000 then
        high, low = high + 1, 0
    end
    return whole(tonumber(high)) .. string.format('%09d', low)
end

-- The version that is so many before, as text; a fork has blocks at 0 and below.
local function before(version, ago)
    if #version < 15 then
        return whole(version - ago)
    end
    local high, low = string.sub(version, 1, -10), string.sub(version, -9) - ago
    if low < 0 then
        high, low = high - 1, low + 1000000000
    end
    return whole(tonumber(high)) .. string.format('%09d', low)
end

local function block_field(at, version, ref)
    return 'b' .. at .. before(version, math.floor(ref / 256)) .. '.' .. ref % 256
end

-- HMGET of any number of fields: unpack takes some thousands only.
local function get_many(key, fields)
    if #fields == 0 then
        return fields
    end
    if #fields <= CHUNK then
        return redis.call('HMGET', key, unpack(fields))
    end
    local found = {}
    for start = 1, #fields, CHUNK do
        local values = redis.call('HMGET', key, unpack(fields, start, math.min(start + CHUNK - 1, #fields)))
        for place = 1, #values do
            found[#found + 1] = values[place]
        end
    end
    return found
end

local function is_over(expiry, now)
    return expiry and tonumber(string.match(expiry, '^%d+')) <= now
end

-- Every key of the thread goes at the same moment, never before the thread has expired.
local function set_expiry(expires)
    local moment = whole(math.floor(expires / 1000) + 1)
    for place = 1, 5 do
        redis.call('PEXPIREAT', KEYS[place], moment)
    end
end

local function drop_all()
    redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5])
end

-- A namespace's head and the thread's expiry; what has expired is as if it weren't there.
local function alive(namespace)
    local found = redis.call('HMGET', KEYS[1], namespace, EXPIRY)
    if found[2] and is_over(found[2], clock()) then
        return false, false
    end
    return found[1], found[2]
end

-- A record without its manifest.
local function described(record)
    local _, _, _, _, _, key, node, metadata, start = string.match(record, RECORD)
    if not start then
        return record
    end
    return string.sub(record, 1, start - 1 + (tonumber(key) or 0) + (tonumber(node) or 0) + metadata)
end

local function key_of(record)
    local _, _, _, _, _, key, _, _, start = string.match(record, RECORD)
    return start and tonumber(key) and string.sub(record, start, start + key - 1)
end

-- The pending writes of a key: fields without their beginning, and values, in turns.
local function writes_of(at, key)
    local from = at .. key
    local fields = redis.call('ZRANGEBYLEX', KEYS[5], '[' .. from .. '\0', '(' .. from .. '\1')
    local values, found = get_many(KEYS[4], fields), {}
    for place = 1, #fields do
        found[#found + 1] = string.sub(fields[place], #from + 2)
        found[#found + 1] = values[place]
    end
    return found
end

-- A checkpoint: version, stamp and counter with the sizes of its blocks, its record, and its blocks end to end. A block
-- in `sent` is left out like one that is missing, and those that are not come into it.
local function row_of(at, version, stamp, counter, record, sent)
    local fields, places, blocks, sizes = {}, {}, {}, {}
    for ref in string.gmatch(string.match(record, '^%S+ (%S+)') or '', '%d+') do
        local field = block_field(at, version, ref)
        sizes[#sizes + 1] = '-1'
        if not sent[field] then
            sent[field] = true
            fields[#fields + 1], places[#places + 1] = field, #sizes
        end
    end
    local values = get_many(KEYS[2], fields)
    for index = 1, #places do
        if values[index] then
            blocks[#blocks + 1] = values[index]
            sizes[places[index]] = #values[index]
        end
    end
    local head = version .. ' ' .. stamp .. ' ' .. counter .. ' ' .. table.concat(sizes, ',')
    return {head, record, table.concat(blocks)}
end

-- Makes a thread that was copied here one of its own, which goes after so many milliseconds, if that is given; returns
-- how many checkpoints it has.
local function begin_anew(stamp, moment, milliseconds)
    redis.call('HDEL', KEYS[1], EXPIRY)
    local heads = redis.call('HGETALL', KEYS[1])
    for place = 1, #heads, 2 do
        local _, counter, latest = string.match(heads[place + 1], HEAD)
        redis.call('HSET', KEYS[1], heads[place], table.concat({stamp, counter, latest, moment, moment, stamp}, ' '))
    end
    for place = 1, milliseconds and 5 or 0 do
        redis.call('PEXPIRE', KEYS[place], milliseconds)
    end
    return redis.call('ZCARD', KEYS[3])
end
