-- A client may not come back for some time; never for less than an earlier penalty has left.
--
-- KEYS  p:{k}          a penalty, which is there as long as it lasts
-- ARGV  how long (milliseconds)
-- Comes back: 1 it lasts at least so long, "C" the key holds what is not ours.

local left = redis.call('PTTL', KEYS[1])
if left == -1 or (left >= 0 and redis.call('TYPE', KEYS[1]).ok ~= 'string') then return 'C' end
if left < tonumber(ARGV[1]) then redis.call('SET', KEYS[1], '', 'PX', ARGV[1]) end
return 1
