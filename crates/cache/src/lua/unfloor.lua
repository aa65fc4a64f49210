-- Takes back our own floor after a known rollback. 1 taken back, 0 it was no longer ours.
-- KEYS[1] entry · ARGV token
--
-- The whole entry goes, older floors with it. That is safe while the token is ours: our floor cancelled every lease
-- given before it and nobody has been given one since, so no fill is under way that an older floor would have to stop.
if redis.call('HGET', KEYS[1], 'l') ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
return 1
