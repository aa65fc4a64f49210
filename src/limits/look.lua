-- What there is of a limit; changes nothing.
-- KEYS[1] limit
-- {until, now}: as `limit.lua` has them; until is 0 where there is nothing
local t = redis.call('TIME')
local stored = redis.pcall('GET', KEYS[1])
local until_ = type(stored) == 'string' and string.match(stored, '^(%d+):%d+$')
return {until_ and tonumber(until_) or 0, t[1] * 1000000 + t[2]}
