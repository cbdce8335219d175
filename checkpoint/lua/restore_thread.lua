-- Makes a thread of what dump_thread returned. ARGV: stamp, the five keys, milliseconds. Returns as
-- copy_thread does.
local now = clock()
if redis.call('EXISTS', KEYS[1]) == 1 and not is_over(redis.call('HGET', KEYS[1], EXPIRY), now) then
    return -1
end
drop_all()
for place = 1, 5 do
    if ARGV[place + 1] ~= '' then
        redis.call('RESTORE', KEYS[place], 0, ARGV[place + 1])
    end
end
return begin_anew(ARGV[1], whole(now), ARGV[7])
