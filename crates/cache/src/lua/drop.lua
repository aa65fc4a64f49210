-- Drops the value whatever its version, and lets nothing older than `version` in; for operators and for repairs.
-- KEYS[1] entry · ARGV version of the row, floor_ttl_ms, data ('' for any)
-- 1 dropped · 0 the value is not `data`, byte for byte: someone has replaced it since
--
-- Never a plain DEL: a floor that stands may be all that keeps a slow reader from storing an old row. So floors only rise,
-- and where a newer one stands its token stays. A lease of a reader is cancelled, since it may be from before `version`.
local e = redis.pcall('HMGET', KEYS[1], 'd', 'f')
if e.err then -- a key of another type under our name
  redis.call('DEL', KEYS[1])
  e = {}
end
if ARGV[3] ~= '' and e[1] ~= ARGV[3] then return 0 end
redis.call('HDEL', KEYS[1], 'v', 'd')
local version = tonumber(ARGV[1])
if (tonumber(e[2]) or 0) <= version then
  redis.call('HDEL', KEYS[1], 'l', 'le')
  -- Of a row that does not exist nothing is older.
  if version > 0 then redis.call('HSET', KEYS[1], 'f', ARGV[1]) end
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
