"""What the vector store on Redis runs on the server: one script a call.

``KEYS`` are those of one namespace: 1 the vector set, 2 contents, 3 metadata, 4 embeddings, 5 times of making, change
and end, 6 sources, 7 ends (sorted by time), 8 ids (sorted by their bytes), 9 the collection's namespaces, 10 what the
collection was made for. ``ARGV[1]`` is the time now in microseconds; numbers up to 2^53 are exact in Lua.
"""

from __future__ import annotations

from functools import cache

from persistence.scripts import Script, script_of

_COMMON = """
local vectors, contents, metadata, embeddings, times, sources, ends, ids =
    KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local now = tonumber(ARGV[1])
local function lives(id)
    local stop = redis.call('ZSCORE', ends, id)
    return not (stop and tonumber(stop) <= now) and redis.call('HEXISTS', contents, id) == 1
end
local function drop(id)
    redis.call('VREM', vectors, id)
    for key = 2, 6 do redis.call('HDEL', KEYS[key], id) end
    redis.call('ZREM', ends, id)
    redis.call('ZREM', ids, id)
end
local function place(id, embedding)
    redis.call('VREM', vectors, id)
    redis.call('VADD', vectors, 'FP32', embedding, id, 'NOQUANT')
    redis.call('HSET', embeddings, id, embedding)
end
local function note(id, made, stop)
    redis.call('HSET', times, id, made .. ' ' .. ARGV[1] .. ' ' .. stop)
    if stop == '-' then redis.call('ZREM', ends, id) else redis.call('ZADD', ends, stop, id) end
end
local function put(from)
    local id, embedding, source = ARGV[from], ARGV[from + 3], ARGV[from + 4]
    local made = ARGV[1]
    if lives(id) then made = string.match(redis.call('HGET', times, id), '^%S+') end
    place(id, embedding)
    redis.call('HSET', contents, id, ARGV[from + 1])
    redis.call('HSET', metadata, id, ARGV[from + 2])
    note(id, made, ARGV[from + 5])
    if source == '' then redis.call('HDEL', sources, id) else redis.call('HSET', sources, id, source) end
    redis.call('ZADD', ids, 0, id)
end
local function note_change(id, stop)
    local made, before = string.match(redis.call('HGET', times, id), '^(%S+) %S+ (%S+)$')
    note(id, made, stop or before)
end
local function row(id, with)
    return {
        id, redis.call('HGET', contents, id), redis.call('HGET', metadata, id),
        redis.call('HGET', sources, id), redis.call('HGET', times, id),
        with == '1' and redis.call('HGET', embeddings, id)
    }
end
"""

_SCRIPTS = {
    # now, dimensions, metric, model: what the collection is made for, made for it now where it is new; on a server
    # without vector sets nothing
    "open": """
local known = redis.pcall('VCARD', vectors)
if type(known) == 'table' and known.err then return {} end
redis.call('HSETNX', KEYS[10], 'dimensions', ARGV[2])
redis.call('HSETNX', KEYS[10], 'metric', ARGV[3])
if ARGV[4] ~= '' then redis.call('HSETNX', KEYS[10], 'model', ARGV[4]) end
return redis.call('HMGET', KEYS[10], 'dimensions', 'metric', 'model')
""",
    # now, the namespace, the source whose other documents go ('': none), then six a document
    "write": """
redis.call('SADD', KEYS[9], ARGV[2])
local written = {}
for from = 4, #ARGV, 6 do
    put(from)
    written[ARGV[from]] = true
end
if ARGV[3] ~= '' then
    local known = redis.call('HGETALL', sources)
    for n = 1, #known, 2 do
        if known[n + 1] == ARGV[3] and not written[known[n]] then drop(known[n]) end
    end
end
""",
    # now, with embeddings, ids
    "read": """
local found = {}
for n = 3, #ARGV do
    if lives(ARGV[n]) then found[#found + 1] = row(ARGV[n], ARGV[2]) end
end
return found
""",
    # now, with embeddings, the id before ('': none), how many: also those that have ended, without their content
    "page": """
local first = ARGV[3] == '' and '-' or '(' .. ARGV[3]
local found = {}
for _, id in ipairs(redis.call('ZRANGEBYLEX', ids, first, '+', 'LIMIT', 0, ARGV[4])) do
    found[#found + 1] = lives(id) and row(id, ARGV[2]) or {id}
end
return found
""",
    # now, id, then a flag and a value for content, metadata, embedding, source, end ('-': none)
    "change": """
local id = ARGV[2]
if not lives(id) then return 0 end
if ARGV[3] == '1' then redis.call('HSET', contents, id, ARGV[4]) end
if ARGV[5] == '1' then redis.call('HSET', metadata, id, ARGV[6]) end
if ARGV[7] == '1' then place(id, ARGV[8]) end
if ARGV[9] == '1' then redis.call('HSET', sources, id, ARGV[10]) end
note_change(id, ARGV[11] == '1' and ARGV[12])
return 1
""",
    # now, id, the metadata that are there, those in their place: what else there is, to be merged into anew
    "merge": """
local id = ARGV[2]
if not lives(id) then return 0 end
local there = redis.call('HGET', metadata, id)
if there ~= ARGV[3] then return there end
redis.call('HSET', metadata, id, ARGV[4])
note_change(id)
return 1
""",
    # now, ids
    "remove": """
local gone = 0
for n = 2, #ARGV do
    if lives(ARGV[n]) then
        drop(ARGV[n])
        gone = gone + 1
    end
end
return gone
""",
    # now, how many
    "purge": """
local ended = redis.call('ZRANGEBYSCORE', ends, '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
for _, id in ipairs(ended) do drop(id) end
return #ended
""",
    # now
    "count": """
return redis.call('ZCARD', ids) - redis.call('ZCOUNT', ends, '-inf', ARGV[1])
""",
    # now, the vector, how many, whether to compare all, up to how many are compared all the same
    "nearest": """
local all = redis.call('ZCARD', ids)
if all == 0 then return {0, 1, {}} end
local wanted = math.min(all, tonumber(ARGV[3]) + redis.call('ZCOUNT', ends, '-inf', ARGV[1]))
local exact = ARGV[4] == '1' or all <= tonumber(ARGV[5]) or wanted == all
local given
if exact then
    given = redis.call('VSIM', vectors, 'FP32', ARGV[2], 'WITHSCORES', 'COUNT', wanted, 'TRUTH')
else
    given = redis.call('VSIM', vectors, 'FP32', ARGV[2], 'WITHSCORES', 'COUNT', wanted, 'EF', math.max(200, 2 * wanted))
end
local found = {}
for n = 1, #given, 2 do
    if lives(given[n]) then
        found[#found + 1] = {given[n], given[n + 1], redis.call('HGET', metadata, given[n])}
    end
end
return {all, exact and 1 or 0, found}
""",
}

READS = frozenset(("read", "page", "count", "nearest"))
"""Scripts that change nothing, so that running one twice is running it once."""


@cache
def script(name: str) -> Script:
    """Return a script by its name."""
    return script_of(_COMMON + _SCRIPTS[name])
