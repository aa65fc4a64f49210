-- Asks for the value, or else for the right to fill it.
-- KEYS[1] entry · ARGV token, lease_ms, min version, rejected data ('' for none)
-- {1, version, data} hit · {0} the lease is yours · {2} another reader fills (wait a little)
-- {3} a writer is in flight (read Postgres, fill nothing)
--
-- A version of 0 says that there is no row, so it is a hit for those only who know of no version (min 0).
-- A value is dropped instead of returned when it is older than the node's floor, when its version is no number,
-- or when it is, byte for byte, what the reader has just rejected as foreign (byte for byte, so that a repair by
-- someone else in between survives). Empty data is nobody's, so '' rejects nothing that is real.
local e = redis.pcall('HMGET', KEYS[1], 'v', 'd', 'l', 'le', 'f')
if e.err then -- a key of another type under our name; no floor of ours can be lost with it
  redis.call('DEL', KEYS[1])
  e = {}
end
if e[1] or e[2] then
  if e[1] and e[2] and e[2] ~= ARGV[4] and (tonumber(e[1]) or -1) >= tonumber(ARGV[3]) then return {1, e[1], e[2]} end
  redis.call('HDEL', KEYS[1], 'v', 'd')
end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
if e[3] and (tonumber(e[4]) or 0) > now then
  return {string.sub(e[3], 1, 1) == 'w' and 3 or 2, false, false}
end
redis.call('HSET', KEYS[1], 'l', ARGV[1], 'le', now + tonumber(ARGV[2]))
-- The entry outlives its lease. A floor neither ends sooner nor later for it: on a row that is read all the time, the
-- floor of a writer that died would never end.
if not e[5] and redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return {0, false, false}
