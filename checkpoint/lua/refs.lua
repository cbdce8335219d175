-- What each checkpoint needs: the namespace's epoch and counter, then version and first line of the record, oldest first.
-- ARGV: namespace, the version above which ('': all), limit.
local namespace, above, limit = unpack(ARGV, 1, 3)
local head = alive(namespace)
if not head then
    return {'', '0'}
end
local _, counter, _, _, _, epoch = string.match(head, HEAD)
local at = namespace .. '\0'
local from = above == '' and '[' .. at or '(' .. at .. padded(above)
local members = redis.call('ZRANGEBYLEX', KEYS[3], from, '(' .. namespace .. '\1', 'LIMIT', 0, limit)
local found, fields = {epoch, counter}, {}
for place = 1, #members do
    fields[place] = 'c' .. at .. string.match(string.sub(members[place], #at + 1), '^0*(%d+)$')
end
local records = get_many(KEYS[2], fields)
for place = 1, #fields do
    found[#found + 1] = string.sub(fields[place], #at + 2)
    found[#found + 1] = string.match(records[place] or '', '^[^\n]*\n?')
end
return found
