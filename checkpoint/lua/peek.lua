-- A namespace's stamp and counter, and the record of one of its versions. ARGV: namespace, version.
local head = alive(ARGV[1])
local record = head and redis.call('HGET', KEYS[2], 'c' .. ARGV[1] .. '\0' .. ARGV[2])
if not record then
    return false
end
local stamp, counter = string.match(head, HEAD)
return {stamp, counter, record}
