-- Takes from a limit that all processes share, by the generic cell rate algorithm, after what is owed to it and given back.
-- KEYS[1] limit · ARGV each (the time in which one is replenished), burst (how far ahead may be taken), want (0 takes nothing),
--   known, all (1: take the caller's word beside what is here), owed, keep_ms, then pairs: taken and not used, its `until`
-- {taken, until, now}: times are microseconds of the clock of Redis; all there is has been replenished at `until`
--
-- What is here is a decimal number, and never believed to be later than the limit can be: what somebody else has written
-- closes nothing for longer than that. `known` is how far ahead the caller last saw it: it counts where Redis has lost what was
-- here. What is not used is given back only as far as it has not been replenished yet, and only where it was taken.
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local each, burst, want = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local stored = redis.pcall('GET', KEYS[1])
if type(stored) == 'table' then -- a key of another type under our name
  redis.call('DEL', KEYS[1])
  stored = false
end
local found = stored and string.match(stored, '^%d+$') and tonumber(stored)
local at = math.min(found or 0, now + burst)
if not found or ARGV[5] == '1' then at = math.max(at, now + tonumber(ARGV[4])) end
if tonumber(ARGV[6]) > 0 then at = math.max(at, now) + tonumber(ARGV[6]) * each end
for i = 8, found and #ARGV or 0, 2 do
  local left = math.min(tonumber(ARGV[i]) * each, tonumber(ARGV[i + 1]) - now)
  if left > 0 then at = at - left end
end
at = math.max(at, now)
local taken = math.max(0, math.min(want, math.floor((now + burst - at) / each)))
at = at + taken * each
redis.call('SET', KEYS[1], string.format('%.0f', at), 'PX', ARGV[7])
return {taken, at, now}
