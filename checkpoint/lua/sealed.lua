-- A page of what may be sealed: the cursor of the next one ('0': none), then fields and values in turns. ARGV: which of
-- KEYS, cursor, about how many. What is there all the time comes once at least.
local page = redis.call('HSCAN', KEYS[tonumber(ARGV[1])], ARGV[2], 'COUNT', ARGV[3])
return {page[1], unpack(page[2])}
