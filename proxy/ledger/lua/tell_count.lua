-- What a holder has of one key, in absolute numbers: heals whatever was lost on the way, and is how seats are given back.
--
-- KEYS  n:{k}; with check 1 the listing of holders behind it
-- ARGV  holder, check (1: the holder must be listed), ttl (seconds), count, former ids of the same instance...
-- Comes back: 1 done, "U" the holder is not listed and nothing was done, "C" the key holds what is not ours.

if ARGV[2] == '1' and redis.call('HEXISTS', KEYS[2], ARGV[1]) == 0 then return 'U' end
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'hash' and kind ~= 'none' then return 'C' end
for i = 5, #ARGV do
  redis.call('HDEL', KEYS[1], ARGV[i])
end
if tonumber(ARGV[4]) > 0 then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[4])
  redis.call('EXPIRE', KEYS[1], ARGV[3])
else
  redis.call('HDEL', KEYS[1], ARGV[1])
end
return 1
