-- Leases: KEYS[1] is a lease, its holder's token with an expiry; KEYS[2] its fencing token, which only ever grows and
-- so never expires.

local call, holder, ttl = ARGV[1], ARGV[2], ARGV[3]
local now = redis.call('GET', KEYS[1])

if call == 'take' then
    if now then
        return 0
    end
    redis.call('SET', KEYS[1], holder, 'PX', ttl)
    return redis.call('INCR', KEYS[2])
end
if now ~= holder then
    return 0
end
if call == 'renew' then
    return redis.call('PEXPIRE', KEYS[1], ttl)
end
return redis.call('DEL', KEYS[1])
