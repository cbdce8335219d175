-- One checkpoint with its blocks in the order of its refs. ARGV: namespace, version ('': the latest), key, base ('':
-- none), whether with its writes. While the stamp is the base's no block and no manifest is sent: who asks has them.
local namespace, version, key, base = unpack(ARGV, 1, 4)
local head = alive(namespace)
if not head then
    return false
end
local at = namespace .. '\0'
local stamp, counter, latest = string.match(head, HEAD)
if key ~= '' then
    version = redis.call('HGET', KEYS[2], 'k' .. at .. key)
elseif version == '' then
    version = latest
end
local record = version and redis.call('HGET', KEYS[2], 'c' .. at .. version)
if not record then
    return false
end
local row
if version == latest and stamp == base then
    row = {version .. ' ' .. stamp .. ' ' .. counter .. ' ', described(record), ''}
else
    row = row_of(at, version, version == latest and stamp or '-', counter, record, {})
end
local own = ARGV[5] == '1' and key_of(record)
if own then
    row[4] = writes_of(at, own)
end
return row
