-- All there is under a name, at one moment; changes nothing.
-- KEYS[1] entry
-- {type, v, d, f, l, ms left of the lease, ms left of the key (-1 without an end, -2 no key)}
local left = redis.call('PTTL', KEYS[1])
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'hash' then return {kind, false, false, false, false, 0, left} end
local e = redis.call('HMGET', KEYS[1], 'v', 'd', 'f', 'l', 'le')
local t = redis.call('TIME')
return {kind, e[1], e[2], e[3], e[4], (tonumber(e[5]) or 0) - (t[1] * 1000 + math.floor(t[2] / 1000)), left}
