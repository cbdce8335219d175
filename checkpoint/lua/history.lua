-- From a version ('': the latest) along the parents: version and record without its manifest of those below `before`.
-- ARGV: namespace, version, before, limit. The first of the answer is the version to go on from, '' at the end: a call
-- looks at a thousand.
local namespace, version, below, limit = unpack(ARGV, 1, 4)
local head = alive(namespace)
if not head then
    return {''}
end
if version == '' then
    version = select(3, string.match(head, HEAD))
end
local at, found, looked = namespace .. '\0', {''}, 0
while true do
    local record = redis.call('HGET', KEYS[2], 'c' .. at .. version)
    if not record then
        return found
    end
    if padded(version) < padded(below) then
        found[#found + 1] = version
        found[#found + 1] = described(record)
    end
    local parent = string.match(record, '^%d+')
    looked = looked + 1
    if not parent or padded(parent) >= padded(version) or #found > 2 * limit then
        return found
    end
    version = parent
    if looked == CHUNK then
        found[1] = version
        return found
    end
end
