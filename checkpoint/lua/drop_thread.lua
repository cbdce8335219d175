-- Deletes a thread. ARGV: fields and values that the heads must have, none for whatever they are. Returns how many
-- checkpoints it had, false when it is not there, has expired or has changed.
local expiry = redis.call('HGET', KEYS[1], EXPIRY)
if is_over(expiry, clock()) then
    drop_all()
    return false
end
if redis.call('EXISTS', KEYS[1]) == 0 then
    return false
end
if #ARGV > 0 then
    for place = 1, #ARGV, 2 do
        if redis.call('HGET', KEYS[1], ARGV[place]) ~= ARGV[place + 1] then
            return false
        end
    end
    if redis.call('HLEN', KEYS[1]) - (expiry and 1 or 0) ~= #ARGV / 2 then
        return false
    end
end
local count = redis.call('ZCARD', KEYS[3])
drop_all()
return count
