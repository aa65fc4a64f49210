-- Ends a lease, and stores what its owner read. 1 stored, 0 refused (or nothing to store).
-- KEYS[1] entry · ARGV token, version, data ('' gives the lease back and stores nothing), ttl_ms
--
-- Readers come with their lease, a writer with its own floor token ('w...'). Whoever wrote since has replaced or
-- removed the token, so a slow owner is refused whatever it carries. The comparison with the floor is still needed:
-- a lease may be taken while a slow writer, whose token has run out, has not committed yet.
-- That there is no row (version 0) is stored like a value; every floor and every value are newer.
-- A lease that has run out fills nothing, though nobody else has taken one: what bars older versions elsewhere is
-- counted from the lease's time.
local e = redis.call('HMGET', KEYS[1], 'l', 'f', 'v', 'le')
if e[1] ~= ARGV[1] then return 0 end
local t = redis.call('TIME')
if ARGV[3] ~= '' and (tonumber(e[4]) or 0) <= t[1] * 1000 + math.floor(t[2] / 1000) then return 0 end
redis.call('HDEL', KEYS[1], 'l', 'le') -- in every case, so that the next reader need not wait for a lease that failed
local version = tonumber(ARGV[2])
if ARGV[3] == '' or (tonumber(e[2]) or 0) > version or (tonumber(e[3]) or 0) > version then return 0 end
redis.call('HSET', KEYS[1], 'v', ARGV[2], 'd', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
