#!lua flags=allow-oom
-- The seats that a dead holder has of one key become free, some members at a time. What does not name the holder is left as it is.
--
-- KEYS  n:{k}, for seats of members m:{k} behind it
-- ARGV  the dead holder, cursor ("0" at first), about how many members to look at
-- Comes back: the next cursor, "0" when nothing is left; "C" a key holds what is not ours.

for i = 1, #KEYS do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= 'hash' and kind ~= 'none' then return 'C' end
end
local cursor = '0'
if KEYS[2] and redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then
  local found = redis.call('HSCAN', KEYS[2], ARGV[2], 'COUNT', ARGV[3])
  cursor = found[1]
  for i = 1, #found[2], 2 do
    local after, times = string.gsub(found[2][i + 1], ARGV[1] .. ';', '')
    if times > 0 and after == '' then
      redis.call('HDEL', KEYS[2], found[2][i])
    elseif times > 0 then
      redis.call('HSET', KEYS[2], found[2][i], after)
    end
  end
end
if cursor == '0' then redis.call('HDEL', KEYS[1], ARGV[1]) end
return cursor
