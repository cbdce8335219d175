-- The calls of KeyValueStore that one command can't make, but for put and increment. KEYS[1] is the namespace's root, on one slot of a cluster:
-- a key is a hash, v its value and n its version; the sorted set beside them has every key that was put, in order, and
-- loses those that have expired when a scan comes by.

local root = KEYS[1]
local index = root .. '#'
local name = ARGV[1]

local function at(key)
    return root .. ':' .. key
end

local function set(key, value, ttl)
    local place = at(key)
    local version = redis.call('HINCRBY', place, 'n', 1)
    redis.call('HSET', place, 'v', value)
    if ttl ~= '' then
        redis.call('PEXPIRE', place, ttl)
    elseif version > 1 then
        redis.call('PERSIST', place)
    end
    if version == 1 then
        redis.call('ZADD', index, 0, key)
        local now = redis.call('TIME')
        version = now[1] * 1000000 + now[2]
        redis.call('HSET', place, 'n', string.format('%.0f', version))
    end
    return version
end

local function item(key)
    local place = at(key)
    local found = redis.call('HMGET', place, 'v', 'n')
    if not found[1] then
        return false
    end
    local left = redis.call('PTTL', place)
    if left >= 0 then
        local now = redis.call('TIME')
        left = now[1] * 1000 + math.floor(now[2] / 1000) + left
    end
    return {key, found[1], found[2], left}
end

local function remove(key)
    redis.call('ZREM', index, key)
    return redis.call('DEL', at(key))
end

local calls = {}

function calls.put_many(ttl, ...)
    local given = {...}
    for n = 1, #given, 2 do
        set(given[n], given[n + 1], ttl)
    end
end

function calls.put_expected(key, value, ttl, expected)
    local version = redis.call('HGET', at(key), 'n') or '0'
    if version ~= expected then
        return {tonumber(version)}
    end
    return set(key, value, ttl)
end

function calls.item(key)
    return item(key)
end

function calls.many(...)
    local found = {}
    for n, key in ipairs({...}) do
        found[n] = redis.call('HGET', at(key), 'v')
    end
    return found
end

function calls.delete(key, expected)
    if expected ~= '' and redis.call('HGET', at(key), 'n') ~= expected then
        return 0
    end
    return remove(key)
end

function calls.delete_many(...)
    local count = 0
    for _, key in ipairs({...}) do
        count = count + remove(key)
    end
    return count
end

function calls.expire(key, ttl)
    local place = at(key)
    if ttl == '' then
        local there = redis.call('EXISTS', place)
        redis.call('PERSIST', place)
        return there
    end
    return redis.call('PEXPIRE', place, ttl)
end

function calls.scan(from, to, limit)
    local found = {}
    limit = tonumber(limit)
    while #found < limit do
        local keys = redis.call('ZRANGEBYLEX', index, from, to, 'LIMIT', 0, limit)
        for _, key in ipairs(keys) do
            if #found < limit then
                local one = item(key)
                if one then
                    found[#found + 1] = one
                else
                    redis.call('ZREM', index, key)
                end
                from = '(' .. key
            end
        end
        if #keys < limit then
            break
        end
    end
    return found
end

function calls.clear()
    local count = 0
    local keys = redis.call('ZRANGE', index, 0, 999)
    while #keys > 0 do
        for _, key in ipairs(keys) do
            count = count + remove(key)
        end
        keys = redis.call('ZRANGE', index, 0, 999)
    end
    return count
end

return calls[name](unpack(ARGV, 2))
