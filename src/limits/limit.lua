-- Takes from a limit that all processes share, by the generic cell rate algorithm, after what is owed to it and given back.
-- KEYS[1] limit · ARGV each (the time in which one is replenished), burst (how far ahead may be taken), want (0 takes nothing),
--   known (how far ahead the caller believes it to be), seen (the birth of what the caller has seen here; 0: of nothing), owed
--   (how much of that the caller has let in by itself; below 0: how much of what was told has been given back), keep_ms, whole_ms (the same while nothing of it is used), then threes: how
--   many were taken and not used, their `until`, their `born` (0: whichever)
-- {taken, until, now, born}: times are microseconds of the clock of Redis; all there is has been replenished at `until`
--
-- What is here is `until:born`, and never believed to be later than the limit can be: what somebody else has written closes
-- nothing for longer than that. Where Redis has lost what was here it is born again: each caller who saw another birth is
-- believed what they know, and what they took before is not given back.
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local each, burst, want = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local known, seen, owed = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local stored = redis.pcall('GET', KEYS[1])
if type(stored) == 'table' then -- a key of another type under our name
  redis.call('DEL', KEYS[1])
  stored = false
end
local found, born = string.match(stored or '', '^(%d+):(%d+)$')
if born and #born > 16 then found = nil end
found = tonumber(found)
born = found and tonumber(born) or now
local at = math.max(now, math.min(found or 0, now + burst))
-- `known` holds what is owed, and what was given back no more.
if found and born == seen then at = at + owed else at = math.max(at, now + known) end
for i = 9, found and #ARGV or 0, 3 do
  local birth = tonumber(ARGV[i + 2])
  if birth == 0 or birth == born then
    at = at - math.max(0, math.min(tonumber(ARGV[i]) * each, tonumber(ARGV[i + 1]) - now))
  end
end
at = math.max(now, math.min(at, now + burst))
local taken = math.max(0, math.min(want, math.floor((now + burst - at) / each)))
at = at + taken * each
-- What is whole is soon forgotten: should the clock be set back, it would be used up.
redis.call('SET', KEYS[1], string.format('%.0f:%.0f', at, born), 'PX', at > now and ARGV[7] or ARGV[8])
return {taken, at, now, born}
