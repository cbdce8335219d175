-- Returns the five keys of a thread as the server writes them for another, false when it isn't there.
if redis.call('EXISTS', KEYS[1]) == 0 or is_over(redis.call('HGET', KEYS[1], EXPIRY), clock()) then
    return false
end
local dumps = {}
for place = 1, 5 do
    dumps[place] = redis.call('DUMP', KEYS[place]) or ''
end
return dumps
