-- Checkpoints newest first: version and record without its manifest of each. With states: a row of each, with its
-- writes, and no block twice. ARGV: namespace, before, limit, states, writes, then the versions that are wanted, none
-- for all below `before`.
local namespace, below, limit, states, writes = unpack(ARGV, 1, 5)
local head = alive(namespace)
if not head then
    return {}
end
local at = namespace .. '\0'
local stamp, counter, latest = string.match(head, HEAD)
local versions = {}
if #ARGV > 5 then
    for place = 6, #ARGV do
        versions[#versions + 1] = ARGV[place]
    end
else
    local members = redis.call('ZREVRANGEBYLEX', KEYS[3], '(' .. at .. padded(below), '[' .. at, 'LIMIT', 0, limit)
    for place = 1, #members do
        versions[place] = string.match(string.sub(members[place], #at + 1), '^0*(%d+)$')
    end
end
local fields = {}
for place = 1, #versions do
    fields[place] = 'c' .. at .. versions[place]
end
local records, found, sent = get_many(KEYS[2], fields), {}, {}
for place = 1, #versions do
    local version, record = versions[place], records[place]
    if states ~= '1' then
        found[#found + 1] = version
        found[#found + 1] = record and described(record)
    elseif record then
        local row = row_of(at, version, version == latest and stamp or '-', counter, record, sent)
        local own = writes == '1' and key_of(record)
        if own then
            row[4] = writes_of(at, own)
        end
        found[#found + 1] = row
    end
end
return found
