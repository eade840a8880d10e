-- A holder is declared dead, if its counter is still the one that was watched.
--
-- KEYS  the listing of holders: holder -> heartbeats
-- ARGV  holder, counter
-- Comes back: 1 it is not listed any more, 0 it lives.

local counter = redis.call('HGET', KEYS[1], ARGV[1])
if counter and counter ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
return 1
