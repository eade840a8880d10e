-- Which members a holder has of one key, and which it has no longer: some of them, each in one piece.
--
-- KEYS  n:{k} m:{k}; with check 1 the listing of holders behind them
-- ARGV  holder, check (1: the holder must be listed), ttl (seconds), number of former ids, former ids of the same instance...,
--       then pairs: 1 (has) or 0 (has not), member
-- Comes back: 1 done, "U" the holder is not listed and nothing was done, "C" a key holds what is not ours.
--
-- n:{k} is kept as the number of members in m:{k} that name the holder.

local names, members, holder = KEYS[1], KEYS[2], ARGV[1]
if ARGV[2] == '1' and redis.call('HEXISTS', KEYS[3], holder) == 0 then return 'U' end
for i = 1, 2 do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= 'hash' and kind ~= 'none' then return 'C' end
end

local former = {}
for i = 5, 4 + tonumber(ARGV[4]) do former[ARGV[i]] = true end

local changes = {}
for i = 5 + tonumber(ARGV[4]), #ARGV, 2 do
  local wanted, member = ARGV[i] == '1', ARGV[i + 1]
  local before = redis.call('HGET', members, member) or ''
  local after, had = {}, false
  for one in string.gmatch(before, '[^;]+') do
    if one == holder then
      had = true
    elseif former[one] then
      changes[one] = (changes[one] or 0) - 1
    else
      after[#after + 1] = one .. ';'
    end
  end
  if wanted then after[#after + 1] = holder .. ';' end
  if wanted ~= had then changes[holder] = (changes[holder] or 0) + (wanted and 1 or -1) end
  local text = table.concat(after)
  if text == '' then
    redis.call('HDEL', members, member)
  elseif text ~= before then
    redis.call('HSET', members, member, text)
  end
end
for one, change in pairs(changes) do
  if change ~= 0 and redis.call('HINCRBY', names, one, change) <= 0 then redis.call('HDEL', names, one) end
end
redis.call('EXPIRE', names, ARGV[3])
redis.call('EXPIRE', members, ARGV[3])
return 1
