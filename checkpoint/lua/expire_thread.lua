-- Deletes a thread that has expired. Returns 'gone' also where Redis did it before, and otherwise when it expires, 0 for
-- never.
if redis.call('EXISTS', KEYS[1]) == 0 then
    return 'gone'
end
local expiry = redis.call('HGET', KEYS[1], EXPIRY)
if is_over(expiry, clock()) then
    drop_all()
    return 'gone'
end
return expiry and string.match(expiry, '^%d+') or '0'
