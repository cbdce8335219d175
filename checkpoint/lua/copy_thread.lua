-- Copies a whole thread to KEYS; KEYS 6 to 10 are its own. ARGV: stamp, and after how many milliseconds the copy expires,
-- if it does. Returns how many checkpoints it has, -1 when the new thread is there, false when it isn't itself.
local now = clock()
if redis.call('EXISTS', KEYS[6]) == 0 or is_over(redis.call('HGET', KEYS[6], EXPIRY), now) then
    return false
end
if redis.call('EXISTS', KEYS[1]) == 1 and not is_over(redis.call('HGET', KEYS[1], EXPIRY), now) then
    return -1
end
drop_all()
for place = 1, 5 do
    redis.call('COPY', KEYS[place + 5], KEYS[place])
    redis.call('PERSIST', KEYS[place])
end
return begin_anew(ARGV[1], whole(now), ARGV[2])
