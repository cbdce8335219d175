-- Makes a thread of what was prepared for it. KEYS 1 to 5 are the thread's, 6 to 10 those under which it was prepared.
-- Returns how many checkpoints it has, -1 when the thread is there, false when what was prepared has expired.
if redis.call('EXISTS', KEYS[6]) == 0 then
    return false
end
if redis.call('EXISTS', KEYS[1]) == 1 and not is_over(redis.call('HGET', KEYS[1], EXPIRY), clock()) then
    redis.call('UNLINK', KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10])
    return -1
end
drop_all()
for place = 1, 5 do
    if redis.call('EXISTS', KEYS[place + 5]) == 1 then
        redis.call('RENAME', KEYS[place + 5], KEYS[place])
        redis.call('PERSIST', KEYS[place])
    end
end
return redis.call('ZCARD', KEYS[3])
