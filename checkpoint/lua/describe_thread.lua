-- The heads of a thread, fields and values in turns, without its expiry; with ARGV 1 the record of the latest
-- checkpoint in the namespace '' follows, false where there is none. False: there is no thread, or it has expired.
local found = redis.call('HGETALL', KEYS[1])
local heads, record = {}, false
for place = 1, #found, 2 do
    if found[place] ~= EXPIRY then
        heads[#heads + 1] = found[place]
        heads[#heads + 1] = found[place + 1]
        if found[place] == '' and ARGV[1] == '1' then
            local _, _, latest = string.match(found[place + 1], HEAD)
            record = redis.call('HGET', KEYS[2], 'c\0' .. latest)
        end
    elseif is_over(found[place + 1], clock()) then
        return false
    end
end
if #heads == 0 then
    return false
end
return {heads, record and described(record)}
