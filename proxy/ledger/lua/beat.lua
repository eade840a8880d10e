#!lua flags=allow-oom
-- A heartbeat: the holder's counter goes up, if the holder is still listed.
--
-- KEYS  the listing of holders: holder -> heartbeats
-- ARGV  holder, ttl of the listing (seconds)
-- Comes back: the whole listing, flat; empty if the holder is not listed, and then nothing was done.

if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return {} end
redis.call('HINCRBY', KEYS[1], ARGV[1], 1)
redis.call('EXPIRE', KEYS[1], ARGV[2])
return redis.call('HGETALL', KEYS[1])
