-- From now on nothing older than `version` may be stored here, and nothing older is here.
-- KEYS[1] entry · ARGV version, token ('' for the worker), lease_ms, floor_ttl_ms
-- 1 floor placed · 0 the value is already as new
--
-- Drops the value, cancels every lease given before, and leaves the writer's token as the only one that may fill.
-- Where a newer floor stands, its token stays. The life of the key becomes the floor's in any case: a dropped value
-- may have had seconds left, and a floor that lives as long as a value would outlive its use.
local e = redis.pcall('HMGET', KEYS[1], 'v', 'f')
if e.err then -- a key of another type under our name
  redis.call('DEL', KEYS[1])
  e = {}
end
local version = tonumber(ARGV[1])
if (tonumber(e[1]) or -1) >= version then return 0 end
redis.call('HDEL', KEYS[1], 'v', 'd')
if (tonumber(e[2]) or 0) <= version then
  redis.call('HSET', KEYS[1], 'f', ARGV[1])
  if ARGV[2] == '' then
    redis.call('HDEL', KEYS[1], 'l', 'le')
  else
    local t = redis.call('TIME')
    redis.call('HSET', KEYS[1], 'l', ARGV[2], 'le', t[1] * 1000 + math.floor(t[2] / 1000) + tonumber(ARGV[3]))
  end
end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
