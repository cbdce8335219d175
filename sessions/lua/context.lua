-- The shared context of one user: ARGV[1] is what to do, the rest its arguments.
-- KEYS: items (hash: key -> packed item), order (sorted set of the keys, all of score 0, so in the order of their
-- bytes), expiry (sorted set: key by the microsecond it ends), agents (hash: agent -> packed rules).
-- An item is packed as {value, topics, subscribers, version, created, updated, expires, ttl}, the first three as JSON,
-- the last two '' for never. Rules are packed as {topics, permissions}, '' for anywhere.
local items, order, expiry, agents = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local command = ARGV[1]
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]

local function text(number)
    return number == '' and '' or string.format('%.0f', number)
end

local function json(list)
    return #list == 0 and '[]' or cjson.encode(list)
end

local function set_of(list)
    local found = {}
    for _, name in ipairs(list) do found[name] = true end
    return found
end

local function read(key)
    local packed = redis.call('HGET', items, key)
    return packed and cmsgpack.unpack(packed)
end

local function is_live(item)
    return item and (item[7] == '' or item[7] > now)
end

local function answer(key, item)
    return {key, item[1], item[2], item[3], text(item[4]), text(item[5]), text(item[6]), text(item[7]), text(item[8])}
end

local function write(key, item)
    redis.call('HSET', items, key, cmsgpack.pack(item))
    redis.call('ZADD', order, 0, key)
    if item[7] == '' then redis.call('ZREM', expiry, key) else redis.call('ZADD', expiry, text(item[7]), key) end
end

local function remove(key)
    redis.call('HDEL', items, key)
    redis.call('ZREM', order, key)
    redis.call('ZREM', expiry, key)
end

-- When every item ends, index and payload go together a minute after the last of them, without anybody cleaning up.
-- Until then a clean-up counts what it removes, as it does on other backends.
local function renew()
    local last = redis.call('ZRANGE', expiry, -1, -1, 'WITHSCORES')
    local all_end = last[2] and redis.call('ZCARD', order) == redis.call('ZCARD', expiry)
    local till = all_end and text(math.ceil(math.max(last[2], now) / 1000) + 60000)
    for _, name in ipairs({items, order, expiry}) do
        if all_end then redis.call('PEXPIREAT', name, till) else redis.call('PERSIST', name) end
    end
end

local function rules(agent)
    local packed = redis.call('HGET', agents, agent)
    return packed and cmsgpack.unpack(packed) or {'[]', ''}
end

local function is_for(item, agent, heard)
    if item[2] == '[]' and item[3] == '[]' then return true end
    if set_of(cjson.decode(item[3]))[agent] then return true end
    for _, topic in ipairs(cjson.decode(item[2])) do
        if heard[topic] then return true end
    end
    return false
end

local function heard_by(agent)
    return agent == '' and {} or set_of(cjson.decode(rules(agent)[1]))
end

local function may_post(agent, topics)
    local permissions = rules(agent)[2]
    if permissions == '' then return true end
    local allowed = set_of(cjson.decode(permissions))
    for _, topic in ipairs(topics) do
        if not allowed[topic] then return false end
    end
    return #topics > 0
end

local commands = {}

-- key, value, topics, subscribers, ttl, agent, expected ('' each: none)
function commands.push(key, value, topics, subscribers, ttl, agent, expected)
    local old = read(key)
    if not is_live(old) then old = nil end
    local actual = old and old[4] or 0
    if agent ~= '' and not may_post(agent, cjson.decode(topics)) then return {text(actual), rules(agent)[2]} end
    if expected ~= '' and tonumber(expected) ~= actual then return {text(actual)} end
    local life = ttl == '' and '' or tonumber(ttl)
    local ends = ttl == '' and '' or now + life
    local created, updated = now, now
    if old then created, updated = old[5], math.max(old[6], now) end
    local item = {value, topics, subscribers, actual + 1, created, updated, ends, life}
    write(key, item)
    renew()
    return answer(key, item)
end

function commands.get(key, agent)
    local item = read(key)
    if not is_live(item) or (agent ~= '' and not is_for(item, agent, heard_by(agent))) then return false end
    return answer(key, item)
end

function commands.items(agent, topic, after, limit)
    local found, heard, least = {}, heard_by(agent), after == '' and '-' or '(' .. after
    limit = tonumber(limit)
    while #found < limit do
        local keys = redis.call('ZRANGEBYLEX', order, least, '+', 'LIMIT', 0, 200)
        if #keys == 0 then return found end
        for _, key in ipairs(keys) do
            local item = read(key)
            if is_live(item) and (topic == '' or set_of(cjson.decode(item[2]))[topic])
                and (agent == '' or is_for(item, agent, heard)) then
                found[#found + 1] = answer(key, item)
                if #found == limit then return found end
            end
        end
        least = '(' .. keys[#keys]
    end
    return found
end

function commands.delete(key)
    local item = read(key)
    if item then
        remove(key)
        renew()
    end
    return is_live(item) and 1 or 0
end

-- agent, how (set, add, remove), topics
function commands.topics(agent, how, given)
    local old = rules(agent)
    local topics = cjson.decode(how == 'set' and given or old[1])
    if how == 'add' then
        local known = set_of(topics)
        for _, topic in ipairs(cjson.decode(given)) do
            if not known[topic] then topics[#topics + 1] = topic end
        end
    elseif how == 'remove' then
        local gone, left = set_of(cjson.decode(given)), {}
        for _, topic in ipairs(topics) do
            if not gone[topic] then left[#left + 1] = topic end
        end
        topics = left
    end
    redis.call('HSET', agents, agent, cmsgpack.pack({json(topics), old[2]}))
    return json(topics)
end

function commands.permissions(agent, permissions)
    redis.call('HSET', agents, agent, cmsgpack.pack({rules(agent)[1], permissions}))
end

function commands.agent(agent)
    local packed = redis.call('HGET', agents, agent)
    return packed and cmsgpack.unpack(packed)
end

function commands.agents()
    local found, all = {}, redis.call('HGETALL', agents)
    for place = 1, #all, 2 do
        local rule = cmsgpack.unpack(all[place + 1])
        found[#found + 1] = {all[place], rule[1], rule[2]}
    end
    return found
end

function commands.all_topics()
    local found = {}
    for _, packed in ipairs(redis.call('HVALS', agents)) do found[#found + 1] = cmsgpack.unpack(packed)[1] end
    for _, packed in ipairs(redis.call('HVALS', items)) do
        local item = cmsgpack.unpack(packed)
        if is_live(item) then found[#found + 1] = item[2] end
    end
    return found
end

local function without(list, gone)
    local left = {}
    for _, name in ipairs(list) do
        if name ~= gone then left[#left + 1] = name end
    end
    return left
end

function commands.delete_topic(topic)
    local count = 0
    for _, key in ipairs(redis.call('HKEYS', items)) do
        local item = read(key)
        local topics = cjson.decode(item[2])
        local left = without(topics, topic)
        if #left == 0 and #topics > 0 and item[3] == '[]' then
            if is_live(item) then count = count + 1 end
            remove(key)
        elseif #left < #topics then
            item[2], item[4], item[6] = json(left), item[4] + 1, math.max(item[6], now)
            write(key, item)
        end
    end
    for _, agent in ipairs(redis.call('HKEYS', agents)) do
        local rule = rules(agent)
        local permissions = rule[2] == '' and '' or json(without(cjson.decode(rule[2]), topic))
        redis.call('HSET', agents, agent, cmsgpack.pack({json(without(cjson.decode(rule[1]), topic)), permissions}))
    end
    renew()
    return count
end

function commands.delete_expired(limit)
    local gone = redis.call('ZRANGEBYSCORE', expiry, '-inf', text(now), 'LIMIT', 0, limit)
    for _, key in ipairs(gone) do remove(key) end
    renew()
    return #gone
end

local function count_live()
    local live, open = 0, 0
    for _, packed in ipairs(redis.call('HVALS', items)) do
        local item = cmsgpack.unpack(packed)
        if is_live(item) then
            live = live + 1
            if item[2] == '[]' and item[3] == '[]' then open = open + 1 end
        end
    end
    return live, open
end

function commands.clear()
    local live = count_live()
    redis.call('DEL', items, order, expiry, agents)
    return live
end

function commands.erase()
    local found = {redis.call('HLEN', items), redis.call('HLEN', agents)}
    redis.call('DEL', items, order, expiry, agents)
    return found
end

function commands.stats()
    local live, open = count_live()
    local listening = 0
    for _, packed in ipairs(redis.call('HVALS', agents)) do
        if cmsgpack.unpack(packed)[1] ~= '[]' then listening = listening + 1 end
    end
    return {live, open, redis.call('HLEN', items) - live, listening}
end

-- Groups of eight: 'item', key, value, topics, subscribers, created, expires, ttl
-- or 'agent', agent, topics, permissions, '', '', '', ''.
function commands.restore(...)
    local given = {...}
    for place = 1, #given, 8 do
        if given[place] == 'agent' then
            redis.call('HSET', agents, given[place + 1], cmsgpack.pack({given[place + 2], given[place + 3]}))
        else
            local old = read(given[place + 1])
            local ends, life = given[place + 6], given[place + 7]
            write(given[place + 1], {
                given[place + 2], given[place + 3], given[place + 4], old and old[4] + 1 or 1,
                tonumber(given[place + 5]), now, ends == '' and '' or tonumber(ends), life == '' and '' or tonumber(life)
            })
        end
    end
    renew()
end

return commands[command](unpack(ARGV, 2))
