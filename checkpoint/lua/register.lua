-- Notes threads before they may be made. KEYS: threads, registered. ARGV: the threads. Sent as text each time, so that it
-- never comes after the script that it goes before.
local now = redis.call('TIME')
for place = 1, #ARGV do
    redis.call('ZADD', KEYS[1], 0, ARGV[place])
    redis.call('ZADD', KEYS[2], string.format('%.0f', now[1] * 1000000 + now[2]), ARGV[place])
end
return 1
