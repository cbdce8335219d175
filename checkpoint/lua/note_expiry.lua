-- Notes when threads expire. KEYS: expiring. ARGV: thread, moment (0: never), the moment noted before ('':
-- whatever it was), and so on.
for place = 1, #ARGV, 3 do
    local thread, moment, was = unpack(ARGV, place, place + 2)
    if was == '' or redis.call('ZSCORE', KEYS[1], thread) == was then
        if moment == '0' then
            redis.call('ZREM', KEYS[1], thread)
        else
            redis.call('ZADD', KEYS[1], moment, thread)
        end
    end
end
return 1
