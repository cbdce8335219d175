-- Sessions, threads and messages of one tenant. ARGV[1] is what to do, the rest pairs of a parameter's name and value;
-- a parameter that is left out is None. KEYS[1] is holdfast:{<tenant>}: it begins every key, so one slot holds them all.
--   :session:<id>          hash: user, title, version, sliding, expires, created, updated, m:<key of metadata> as JSON
--   :session-threads:<id>  set of thread ids            :user-sessions:<user>, :user-threads:<user>  sets of ids
--   :thread:<id>           hash: as a session's, and session, last, mversion, window, summary, parent, parent_seq,
--                          o:<seq> whose it was until after that message, '' once that user was erased
--   :asked-threads:<user>  set of ids of threads that were the user's until after a message
--   :messages:<id>         sorted set by number: <seq>:<version>:<created>:<through>:<use><JSON><content>
--   :message-keys:<id>     hash: key -> <seq>:<version>:<created>; NUL <seq> -> key, for no key has a NUL
--   :usage:<id>            hash: sums over the thread's own messages, <part>:<day since 1970>:<models as JSON>
--   :app-state:<namespace>, :user-state:<user>  hashes: key, or namespace and key -> value as JSON
--   :expiry                sorted set: session id by the microsecond it ends
-- <use> is <input tokens>:<output tokens>:<cost>:<latency>:<bytes of models>:<bytes of JSON>:<models>, '' for none.
-- Times are microseconds of the server's clock. A session that has ended is not there, whether its keys are gone or not;
-- they go a minute later, those of its threads with them.
local root = KEYS[1]
local command = ARGV[1]
local v, rows, set, unset = {}, {}, {}, {}
for place = 2, #ARGV, 2 do
    local name, value = ARGV[place], ARGV[place + 1]
    if name == 'row' then rows[#rows + 1] = value
    elseif name == 'unset' then unset[#unset + 1] = 'm:' .. value
    elseif name == 'set' then
        local cut = string.find(value, '\0', 1, true)
        set[#set + 1] = {'m:' .. string.sub(value, 1, cut - 1), string.sub(value, cut + 1)}
    else v[name] = value end
end
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]

local function text(number) return string.format('%.0f', number) end
local function key(kind, id) return root .. ':' .. kind .. ':' .. id end
local function later(stored) return text(math.max(tonumber(stored), now)) end

local function fields(name)
    local flat, found = redis.call('HGETALL', name), {}
    for place = 1, #flat, 2 do found[flat[place]] = flat[place + 1] end
    return #flat > 0 and found or nil
end

local function live_session(id)
    local found = fields(key('session', id))
    if found and found.expires and tonumber(found.expires) <= now then return nil end
    return found
end

local function live_thread(id, user)
    local found = fields(key('thread', id))
    if not found or (user and found.user ~= user) then return nil end
    if found.session and not live_session(found.session) then return nil end
    return found
end

-- The same question for those who need no field.
local function is_live(id, user)
    local owner, session = unpack(redis.call('HMGET', key('thread', id), 'user', 'session'))
    if not owner or (user and owner ~= user) then return false end
    if not session then return true end
    local found, expires = unpack(redis.call('HMGET', key('session', session), 'user', 'expires'))
    return found and not (expires and tonumber(expires) <= now)
end

local function row(kind, id) return {id, redis.call('HGETALL', key(kind, id))} end

local function each_key_of_thread(id, call, ...)
    for _, kind in ipairs({'thread', 'messages', 'message-keys', 'usage'}) do redis.call(call, key(kind, id), ...) end
end

-- A minute after the session ended, but not before now: the record is still to be read.
local function till(expires) return text(math.ceil(math.max(expires, now) / 1000) + 60000) end

local function keep_thread(id, session)
    local expires = session and redis.call('HGET', key('session', session), 'expires')
    if expires then each_key_of_thread(id, 'PEXPIREAT', till(expires))
    else each_key_of_thread(id, 'PERSIST') end
end

local function keep_session(id)
    local expires = redis.call('HGET', key('session', id), 'expires')
    for _, kind in ipairs({'session', 'session-threads'}) do
        if expires then redis.call('PEXPIREAT', key(kind, id), till(expires))
        else redis.call('PERSIST', key(kind, id)) end
    end
    if expires then redis.call('ZADD', root .. ':expiry', expires, id)
    else redis.call('ZREM', root .. ':expiry', id) end
    for _, thread in ipairs(redis.call('SMEMBERS', key('session-threads', id))) do keep_thread(thread, id) end
end

-- The numbers of messages until after which a thread was others', each followed by whose.
local function owners(found)
    local list = {}
    for field, user in pairs(found) do
        if string.sub(field, 1, 2) == 'o:' then
            list[#list + 1] = string.sub(field, 3)
            list[#list + 1] = user
        end
    end
    return list
end

-- Return how many messages went.
local function drop_thread(id)
    local gone, found = redis.call('ZCARD', key('messages', id)), fields(key('thread', id)) or {}
    if found.user then redis.call('SREM', key('user-threads', found.user), id) end
    if found.session then redis.call('SREM', key('session-threads', found.session), id) end
    local former = owners(found)
    for place = 2, #former, 2 do redis.call('SREM', key('asked-threads', former[place]), id) end
    each_key_of_thread(id, 'DEL')
    return gone
end

-- Return how many messages, threads and sessions went.
local function drop_session(id)
    local messages, threads = 0, redis.call('SMEMBERS', key('session-threads', id))
    for _, thread in ipairs(threads) do messages = messages + drop_thread(thread) end
    local user = redis.call('HGET', key('session', id), 'user')
    if user then redis.call('SREM', key('user-sessions', user), id) end
    local was_there = redis.call('DEL', key('session', id))
    redis.call('DEL', key('session-threads', id))
    redis.call('ZREM', root .. ':expiry', id)
    return messages, #threads, was_there
end

local function put(name, field, value)
    if value then redis.call('HSET', name, field, value) else redis.call('HDEL', name, field) end
end

local function patch(name)
    for _, field in ipairs(unset) do redis.call('HDEL', name, field) end
    for _, pair in ipairs(set) do redis.call('HSET', name, pair[1], pair[2]) end
end

local function replace_metadata(name)
    for _, field in ipairs(redis.call('HKEYS', name)) do
        if string.sub(field, 1, 2) == 'm:' then redis.call('HDEL', name, field) end
    end
    patch(name)
end

local function is_expected(found, field) return not v.expected or found[field] == v.expected end

-- What is listed is sorted by the caller. An id whose keys have gone is forgotten.
local function listed(kind, index, live)
    local found = {}
    for _, id in ipairs(redis.call('SMEMBERS', index)) do
        if live(id) then found[#found + 1] = row(kind, id)
        elseif redis.call('EXISTS', key(kind, id)) == 0 then redis.call('SREM', index, id) end
    end
    return found
end

local run = {}

function run.create_session()
    if live_session(v.id) then return {} end
    drop_session(v.id)
    local name = key('session', v.id)
    redis.call('HSET', name, 'user', v.user_id, 'version', '1', 'created', text(now), 'updated', text(now))
    put(name, 'title', v.title)
    put(name, 'sliding', v.sliding)
    put(name, 'expires', v.ttl and text(now + v.ttl) or v.expires_at)
    patch(name)
    redis.call('SADD', key('user-sessions', v.user_id), v.id)
    keep_session(v.id)
    return {row('session', v.id)}
end

function run.get_session() return live_session(v.id) and {row('session', v.id)} or {} end

function run.update_session()
    local found, name = live_session(v.id), key('session', v.id)
    if not found or not is_expected(found, 'version') then return {} end
    redis.call('SREM', key('user-sessions', found.user), v.id)
    redis.call('SADD', key('user-sessions', v.user_id), v.id)
    redis.call('HSET', name, 'user', v.user_id, 'version', text(found.version + 1), 'updated', later(found.updated))
    put(name, 'title', v.title)
    put(name, 'sliding', v.sliding)
    put(name, 'expires', v.sliding and text(now + v.sliding) or v.expires_at)
    replace_metadata(name)
    keep_session(v.id)
    return {row('session', v.id)}
end

function run.touch_session()
    local found, name = live_session(v.id), key('session', v.id)
    if not found then return {} end
    redis.call('HSET', name, 'updated', later(found.updated))
    if found.sliding then
        redis.call('HSET', name, 'expires', text(now + found.sliding))
        keep_session(v.id)
    end
    return {row('session', v.id)}
end

function run.patch_session()
    local found = live_session(v.id)
    if not found or not is_expected(found, 'version') then return {} end
    redis.call('HINCRBY', key('session', v.id), 'version', 1)
    patch(key('session', v.id))
    return run.touch_session()
end

function run.delete_session()
    local was_there = live_session(v.id) and 1 or 0
    drop_session(v.id)
    return {was_there}
end

function run.delete_expired_sessions()
    local ids = redis.call('ZRANGEBYSCORE', root .. ':expiry', '-inf', text(now), 'LIMIT', 0, v.limit)
    for _, id in ipairs(ids) do drop_session(id) end
    return {#ids}
end

function run.list_user_sessions() return listed('session', key('user-sessions', v.user_id), live_session) end

local function new_thread(id, user, session)
    local name = key('thread', id)
    redis.call('HSET', name, 'user', user, 'version', '1', 'created', text(now), 'updated', text(now),
        'last', '0', 'mversion', '0', 'window', '0')
    put(name, 'session', session)
    put(name, 'title', v.title)
    redis.call('SADD', key('user-threads', user), id)
    if session then redis.call('SADD', key('session-threads', session), id) end
end

function run.create_thread()
    local session = v.session_id and live_session(v.session_id)
    if live_thread(v.id) or (v.session_id and not session) then return {} end
    drop_thread(v.id)
    new_thread(v.id, v.user_id or session.user, v.session_id)
    patch(key('thread', v.id))
    if v.session_id then keep_session(v.session_id) end
    return {row('thread', v.id)}
end

function run.get_thread() return live_thread(v.id) and {row('thread', v.id)} or {} end

function run.update_thread()
    local found, name = live_thread(v.id), key('thread', v.id)
    if not found or not is_expected(found, 'version') then return {} end
    if v.session_id and not live_session(v.session_id) then return {} end
    local user = v.user_id or found.user
    -- What a user asked stays theirs. Where no message came since it became theirs, nothing did.
    if user ~= found.user and found.last ~= '0' and redis.call('HSETNX', name, 'o:' .. found.last, found.user) == 1 then
        redis.call('SADD', key('asked-threads', found.user), v.id)
    end
    redis.call('SREM', key('user-threads', found.user), v.id)
    redis.call('SADD', key('user-threads', user), v.id)
    if found.session then redis.call('SREM', key('session-threads', found.session), v.id) end
    if v.session_id then redis.call('SADD', key('session-threads', v.session_id), v.id) end
    redis.call('HSET', name, 'user', user, 'version', text(found.version + 1), 'updated', later(found.updated))
    put(name, 'session', v.session_id)
    put(name, 'title', v.title)
    replace_metadata(name)
    keep_thread(v.id, v.session_id)
    if v.session_id then keep_session(v.session_id) end
    return {row('thread', v.id)}
end

function run.touch_thread()
    local found = live_thread(v.id)
    if not found then return {} end
    redis.call('HSET', key('thread', v.id), 'updated', later(found.updated))
    return {row('thread', v.id)}
end

function run.patch_thread()
    local found = live_thread(v.id)
    if not found or not is_expected(found, 'version') then return {} end
    redis.call('HINCRBY', key('thread', v.id), 'version', 1)
    patch(key('thread', v.id))
    return run.touch_thread()
end

function run.delete_thread()
    local was_there = live_thread(v.id) and 1 or 0
    drop_thread(v.id)
    return {was_there}
end

function run.list_session_threads()
    if not live_session(v.session_id) then return {} end
    return listed('thread', key('session-threads', v.session_id), live_thread)
end

function run.list_user_threads() return listed('thread', key('user-threads', v.user_id), live_thread) end

local function parts(member)
    local seq, version, created, through = string.match(member, '^(%d+):(%d+):(%d+):(%d*):')
    return tonumber(seq), version, created, tonumber(through)
end

local function use_of(member)
    local input, output, cost, latency, size, place =
        string.match(member, '^%d+:%d+:%d+:%d*:(%d*):(%d*):(%d*):(%d*):(%d+):%d+:()')
    local models = string.sub(member, place, place + size - 1)
    return {input = input, output = output, cost = cost, latency = latency, models = models}
end

-- Add a message's use to sums by the fields of :usage:, or take it away (sign -1). A sum may be longer than a counter, so
-- each is kept as two: of what is above 10^9, and of what is below. What a fork copied counts where it was written.
local function tally(sums, found, member, sign)
    local seq, _, created = parts(member)
    if seq <= tonumber(found.parent_seq or 0) then return end
    local use = use_of(member)
    local place = ':' .. text(math.floor(created / 86400000000)) .. ':' .. use.models
    local function change(part, number) sums[part .. place] = (sums[part .. place] or 0) + sign * number end
    change('messages', 1)
    if use.latency ~= '' then change('timed', 1) end
    for _, part in ipairs({'input', 'output', 'cost', 'latency'}) do
        if use[part] ~= '' then
            change(part .. '+', tonumber(string.sub(use[part], 1, -10)) or 0)
            change(part, tonumber(string.sub(use[part], -9)))
        end
    end
end

local function book(thread, sums)
    local name = key('usage', thread)
    for field, number in pairs(sums) do
        if number ~= 0 and redis.call('HINCRBY', name, field, text(number)) == 0 then redis.call('HDEL', name, field) end
    end
end

-- Return what tells of the append that had a key; a key goes with its message.
local function keyed(thread)
    local kept = v.key and redis.call('HGET', key('message-keys', thread), v.key)
    if not kept then return nil end
    local seq = string.match(kept, '^%d+')
    local member = redis.call('ZRANGEBYSCORE', key('messages', thread), seq, seq)[1]
    return member and string.sub(member, 1, #kept + 1) == kept .. ':' and kept or nil
end

local function remove(thread, found, members)
    local sums, keys = {}, key('message-keys', thread)
    for _, member in ipairs(members) do
        redis.call('ZREM', key('messages', thread), member)
        tally(sums, found, member, -1)
        local place = '\0' .. text((parts(member)))
        local gone = redis.call('HGET', keys, place)
        if gone then redis.call('HDEL', keys, place, gone) end
    end
    book(thread, sums)
end

local function add(thread, found, through)
    local name, base = key('messages', thread), tonumber(found.last)
    local version, created = text(found.mversion + 1), later(found.updated)
    local kept, sums = ':' .. version .. ':' .. created .. ':' .. (through or '') .. ':', {}
    for place, body in ipairs(rows) do
        local seq = text(base + place)
        local member = seq .. kept .. body
        redis.call('ZADD', name, seq, member)
        tally(sums, found, member, 1)
    end
    book(thread, sums)
    redis.call('HSET', key('thread', thread), 'last', text(base + #rows), 'mversion', version, 'updated', created)
    return {{text(base + 1), version, created}}
end

local function append()
    local found = live_thread(v.thread, v.user)
    if not found or not is_expected(found, 'mversion') then return {} end
    local through = tonumber(v.through)
    if through and (through < tonumber(found.window) or through > tonumber(found.last)) then return {} end
    if keyed(v.thread) then return {} end
    local added = add(v.thread, found, v.through)
    if through then redis.call('HSET', key('thread', v.thread), 'window', v.through, 'summary', added[1][1]) end
    if v.key then
        local told = table.concat(added[1], ':')
        redis.call('HSET', key('message-keys', v.thread), v.key, told, '\0' .. added[1][1], v.key)
    end
    if found.session and redis.call('HEXISTS', key('session', found.session), 'expires') == 1 then
        keep_thread(v.thread, found.session)
    end
    return added
end
run.append_message, run.append_messages = append, append

function run.conversation()
    local found = live_thread(v.thread, v.user)
    if not found then return {} end
    return {{v.thread, found.mversion, found.last, found.window, found.summary or '', found.parent or '',
        found.parent_seq or '', keyed(v.thread) or ''}}
end

local function last_seq(thread)
    local name, skipped = key('messages', thread), 0
    while true do
        local page = redis.call('ZREVRANGE', name, skipped, skipped + 15)
        for _, member in ipairs(page) do
            local seq, _, _, through = parts(member)
            if not through then return seq, member end
        end
        if #page < 16 then return nil end
        skipped = skipped + 16
    end
end

function run.last_message_seq()
    local seq = last_seq(v.thread)
    return seq and {text(seq)} or {}
end

-- Take away what has number `first` or a later one, and the summaries that cover it; others stay.
local function cut(thread, found, first)
    local name = key('messages', thread)
    local gone = {}
    for _, member in ipairs(redis.call('ZRANGEBYSCORE', name, first, '+inf')) do
        local _, _, _, through = parts(member)
        if not through or through >= first then gone[#gone + 1] = member end
    end
    remove(thread, found, gone)
    if tonumber(found.window) < first then return end
    local window, summary = 0, false
    for _, member in ipairs(redis.call('ZRANGE', name, 0, -1)) do
        local seq, _, _, through = parts(member)
        if through and through >= window then window, summary = through, text(seq) end
    end
    redis.call('HSET', key('thread', thread), 'window', text(window))
    put(key('thread', thread), 'summary', summary)
end

function run.pop_message()
    local found = live_thread(v.thread, v.user)
    if not found or not is_expected(found, 'mversion') then return {} end
    local seq, member = last_seq(v.thread)
    if not seq then return {} end
    cut(v.thread, found, seq)
    redis.call('HSET', key('thread', v.thread), 'mversion', text(found.mversion + 1), 'updated', later(found.updated))
    return {member}
end

function run.replace_messages()
    local found = live_thread(v.thread, v.user)
    if not found or not is_expected(found, 'mversion') then return {} end
    cut(v.thread, found, tonumber(v.first))
    return add(v.thread, found)
end

function run.list_messages_before()
    if not is_live(v.thread, v.user) then return {} end
    return redis.call('ZREVRANGEBYSCORE', key('messages', v.thread), '(' .. v.before, '-inf', 'LIMIT', 0, v.limit)
end

run.list_contents = run.list_messages_before

function run.list_messages_after()
    if not is_live(v.thread, v.user) then return {} end
    return redis.call('ZRANGEBYSCORE', key('messages', v.thread), '(' .. v.after, '+inf', 'LIMIT', 0, v.limit)
end

function run.list_context()
    local found, name, kept = live_thread(v.thread, v.user), key('messages', v.thread), {}
    if not found then return {} end
    for _, member in ipairs(redis.call('ZREVRANGEBYSCORE', name, '+inf', '(' .. found.window)) do
        local _, _, _, through = parts(member)
        if not through then kept[#kept + 1] = member end
        if #kept >= tonumber(v.limit) then break end
    end
    if found.summary then kept[#kept + 1] = redis.call('ZRANGEBYSCORE', name, found.summary, found.summary)[1] end
    return kept
end

function run.fork_thread()
    local found = live_thread(v.thread, v.user)
    if not found or live_thread(v.id) then return {} end
    drop_thread(v.id)
    v.title = v.title or found.title
    new_thread(v.id, found.user, found.session)
    local name, at = key('thread', v.id), math.min(tonumber(v.at), tonumber(found.last))
    for field, value in pairs(found) do
        if string.sub(field, 1, 2) == 'm:' then redis.call('HSET', name, field, value) end
    end
    local window, summary = 0, false
    for _, member in ipairs(redis.call('ZRANGEBYSCORE', key('messages', v.thread), '-inf', text(at))) do
        local seq, _, _, through = parts(member)
        redis.call('ZADD', key('messages', v.id), text(seq), member)
        if through and through >= window then window, summary = through, text(seq) end
    end
    redis.call('HSET', name, 'last', text(at), 'mversion', found.mversion, 'window', text(window),
        'parent', v.thread, 'parent_seq', text(at))
    put(name, 'summary', summary)
    if found.session then keep_session(found.session) end
    return {row('thread', v.id)}
end

-- Messages of an export: their numbers, versions, times and summaries stand before them already.
function run.import_messages()
    local found = live_thread(v.thread, v.user)
    if not found then
        if live_thread(v.thread) or not v.user_id then return {-1} end
        drop_thread(v.thread)
        new_thread(v.thread, v.user_id)
        patch(key('thread', v.thread))
        found = live_thread(v.thread)
    end
    if #rows == 0 or parts(rows[1]) <= tonumber(found.last) then return {0} end
    local last, version, window, summary = found.last, tonumber(found.mversion), found.window, found.summary
    local sums = {}
    for _, member in ipairs(rows) do
        local seq, its_version, _, through = parts(member)
        redis.call('ZADD', key('messages', v.thread), text(seq), member)
        tally(sums, found, member, 1)
        last, version = text(seq), math.max(version, tonumber(its_version))
        if through then window, summary = text(through), text(seq) end
    end
    book(v.thread, sums)
    local name = key('thread', v.thread)
    redis.call('HSET', name, 'last', last, 'mversion', text(version), 'window', window, 'updated', later(found.updated))
    put(name, 'summary', summary)
    keep_thread(v.thread, found.session)
    return {#rows}
end

-- The ids of the threads of a thread, a session or a user, or of those in which a user asked.
local function in_scope()
    if v.thread then return {v.thread} end
    if v.asked_by then return redis.call('SUNION', key('user-threads', v.asked_by), key('asked-threads', v.asked_by)) end
    return redis.call('SMEMBERS', v.session and key('session-threads', v.session) or key('user-threads', v.user))
end

local function of_scope(tell)
    local answer = {}
    for _, id in ipairs(in_scope()) do
        local found = live_thread(id, v.user)
        if found and (not v.session or found.session == v.session) then answer[#answer + 1] = tell(id, found) end
    end
    return answer
end

function run.list_usage()
    return of_scope(function(id, found)
        return {id, found.session or '', found.user, redis.call('HGETALL', key('usage', id))}
    end)
end

function run.list_scope()
    if v.asked_by then
        local index = key('asked-threads', v.asked_by)
        for _, id in ipairs(redis.call('SMEMBERS', index)) do
            if redis.call('EXISTS', key('thread', id)) == 0 then redis.call('SREM', index, id) end
        end
    end
    return of_scope(function(id, found)
        return {id, redis.call('ZCARD', key('messages', id)), found.user, found.parent_seq or '0', owners(found)}
    end)
end

function run.list_threads_to_prune() return redis.call('SMEMBERS', key('user-threads', v.user)) end

function run.cut_by_count()
    local member = redis.call('ZREVRANGE', key('messages', v.thread), v.keep, v.keep)[1]
    return member and {text((parts(member)))} or {}
end

-- Times grow with the numbers: the newest message before a moment is found by halving.
function run.cut_by_age()
    local name, from, below = key('messages', v.thread), 0, redis.call('ZCARD', key('messages', v.thread))
    local found
    while from < below do
        local middle = math.floor((from + below) / 2)
        local seq, _, created = parts(redis.call('ZRANGE', name, middle, middle)[1])
        if tonumber(created) < tonumber(v.moment) then found, from = seq, middle + 1 else below = middle end
    end
    return found and {text(found)} or {}
end

function run.cut_by_tokens()
    local name, sum, skipped = key('messages', v.thread), 0, 0
    while true do
        local page = redis.call('ZREVRANGE', name, skipped, skipped + 99)
        for _, member in ipairs(page) do
            local use = use_of(member)
            sum = sum + (tonumber(use.input) or 0) + (tonumber(use.output) or 0)
            if sum > tonumber(v.keep) then return {text((parts(member)))} end
        end
        if #page < 100 then return {} end
        skipped = skipped + 100
    end
end

function run.prune_messages()
    local found, gone = live_thread(v.thread, v.user), {}
    if not found then return {0} end
    local page = redis.call('ZRANGEBYSCORE', key('messages', v.thread), '-inf', v.cut, 'LIMIT', 0, v.limit + 1)
    for _, member in ipairs(page) do
        if #gone < tonumber(v.limit) and text((parts(member))) ~= found.summary then gone[#gone + 1] = member end
    end
    remove(v.thread, found, gone)
    return {#gone}
end

function run.erase_session() return {{drop_session(v.id)}} end

-- Expiry plays no part: what is stored counts.
function run.erase_user()
    local messages, threads, sessions = 0, 0, 0
    for _, id in ipairs(redis.call('SMEMBERS', key('user-threads', v.user))) do
        threads = threads + redis.call('EXISTS', key('thread', id))
        messages = messages + drop_thread(id)
    end
    for _, id in ipairs(redis.call('SMEMBERS', key('user-sessions', v.user))) do
        local its_messages, its_threads, was_there = drop_session(id)
        messages, threads, sessions = messages + its_messages, threads + its_threads, sessions + was_there
    end
    -- In a thread that has become another user's, only the name of who asked goes.
    for _, id in ipairs(redis.call('SMEMBERS', key('asked-threads', v.user))) do
        local former = owners(fields(key('thread', id)) or {})
        for place = 2, #former, 2 do
            if former[place] == v.user then redis.call('HSET', key('thread', id), 'o:' .. former[place - 1], '') end
        end
    end
    local items = redis.call('HLEN', key('user-state', v.user))
    redis.call('DEL', key('user-state', v.user), key('user-threads', v.user), key('user-sessions', v.user),
        key('asked-threads', v.user))
    return {{messages, threads, sessions, items}}
end

local function stored(kind, index)
    local answer = {}
    for _, id in ipairs(redis.call('SMEMBERS', index)) do
        if redis.call('EXISTS', key(kind, id)) == 1 then answer[#answer + 1] = row(kind, id) end
    end
    return answer
end

function run.export_user_sessions() return stored('session', key('user-sessions', v.user)) end
function run.export_user_threads() return stored('thread', key('user-threads', v.user)) end
function run.export_user_items() return redis.call('HGETALL', key('user-state', v.user)) end

function run.export_thread_messages()
    return redis.call('ZRANGEBYSCORE', key('messages', v.thread), '(' .. v.after, '+inf', 'LIMIT', 0, v.limit)
end

-- The session, and what the application and the user keep, each as a flat list of fields and values.
function run.load_state()
    local session = live_session(v.id)
    if not session then return {} end
    return {{row('session', v.id), redis.call('HGETALL', key('app-state', v.namespace)),
        redis.call('HGETALL', key('user-state', session.user))}}
end

function run.update_state()
    local session = live_session(v.id)
    if not session or not is_expected(session, 'version') then return {} end
    for _, change in ipairs(rows) do
        local scope, name, value = string.match(change, '^(%a+)%z([^%z]+)%z(.*)$')
        local state = scope == 'user' and key('user-state', session.user) or key('app-state', v.namespace)
        put(state, scope == 'user' and v.namespace .. name or name, value ~= '' and value)
    end
    return run.patch_session()
end

return run[command]()
