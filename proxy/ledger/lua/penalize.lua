-- A client may not come back for some time; never for less than an earlier penalty has left.
--
-- KEYS  p:{k}          a penalty, empty, which is there as long as it lasts
-- ARGV  how long (milliseconds)
-- Comes back: 1 it lasts at least so long, "C" the key holds what is not ours.

local left = redis.call('PTTL', KEYS[1])
if left ~= -2 and (left == -1 or redis.pcall('GET', KEYS[1]) ~= '') then return 'C' end
if left < tonumber(ARGV[1]) then redis.call('SET', KEYS[1], '', 'PX', ARGV[1]) end
return 1
