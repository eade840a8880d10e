-- A new holder is listed, before it takes its first seat.
--
-- KEYS  the listing of holders: holder -> heartbeats
-- ARGV  holder, ttl of the listing (seconds)
-- Comes back: the whole listing, flat: holder, counter, holder, counter, ...

redis.call('HSET', KEYS[1], ARGV[1], 1)
redis.call('EXPIRE', KEYS[1], ARGV[2])
return redis.call('HGETALL', KEYS[1])
