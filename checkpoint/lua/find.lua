-- The latest version below `before` that has a step or a node ('': any). ARGV: namespace, before, step, node. Returns it
-- ('': none), and where to go on below, '' at the end: a call looks at a thousand.
local namespace, below, step, node = unpack(ARGV, 1, 4)
if not alive(namespace) then
    return {'', ''}
end
local at = namespace .. '\0'
local members = redis.call('ZREVRANGEBYLEX', KEYS[3], '(' .. at .. padded(below), '[' .. at, 'LIMIT', 0, CHUNK)
local version = ''
for place = 1, #members do
    version = string.match(string.sub(members[place], #at + 1), '^0*(%d+)$')
    local record = redis.call('HGET', KEYS[2], 'c' .. at .. version)
    local _, _, _, its_step, _, key, its_node, _, start = string.match(record or '', RECORD)
    if start and (step == '' or step == its_step) then
        start = start + (tonumber(key) or 0)
        if node == '' or node == string.sub(record, start, start - 1 + (tonumber(its_node) or 0)) then
            return {version, ''}
        end
    end
end
return {'', #members == CHUNK and version or ''}
