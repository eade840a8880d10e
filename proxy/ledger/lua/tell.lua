-- The truth about some seats of one holder: how many connections it has under a key, whether it has a member or not. Heals whatever
-- was lost on the way, and is how seats are given back.
--
-- KEYS  with check 1: the listing of holders first; then for each seat its keys:
--         c  n:{k}          seats of connections: holder -> how many
--         m  n:{k} m:{k}    seats of members: holder -> how many; member -> "holder;holder;"
-- ARGV  holder, check (1: the holder must be listed), ttl (seconds), number of former ids of the same instance, those ids...,
--       then for each seat its kind and
--         c  how many
--         m  1 (has him) or 0 (has not), member
--       Former ids lose the seat.
-- Comes back as one text: "U" the holder is not listed and nothing was done; else the indexes from 0 of seats under keys that hold
-- what is not ours, with commas; mostly none.
--
-- n:{k} of members is kept as the number of members in m:{k} that name the holder.

local holder, ttl, former_ids = ARGV[1], ARGV[3], tonumber(ARGV[4])
local key = 0
if ARGV[2] == '1' then
  if redis.call('HEXISTS', KEYS[1], holder) == 0 then return 'U' end
  key = 1
end
local former = {}
for i = 5, 4 + former_ids do former[ARGV[i]] = true end

local function is_ours(name)
  local kind = redis.call('TYPE', name).ok
  return kind == 'hash' or kind == 'none'
end

local function tell_count(name, count)
  for id in pairs(former) do redis.call('HDEL', name, id) end
  if count == '0' then
    redis.call('HDEL', name, holder)
  else
    redis.call('HSET', name, holder, count)
    redis.call('EXPIRE', name, ttl)
  end
end

local function change(name, id, by)
  if redis.call('HINCRBY', name, id, by) <= 0 then redis.call('HDEL', name, id) end
end

local function tell_member(name, members, member, wanted)
  local before = redis.call('HGET', members, member) or ''
  local after, had = {}, false
  for id in string.gmatch(before, '[^;]+') do
    if id == holder then
      had = true
    elseif former[id] then
      change(name, id, -1)
    else
      after[#after + 1] = id .. ';'
    end
  end
  if wanted then after[#after + 1] = holder .. ';' end
  if wanted ~= had then change(name, holder, wanted and 1 or -1) end
  local text = table.concat(after)
  if text == '' then
    redis.call('HDEL', members, member)
  else
    if text ~= before then redis.call('HSET', members, member, text) end
    redis.call('EXPIRE', name, ttl)
    redis.call('EXPIRE', members, ttl)
  end
end

local foreign, index, arg = {}, 0, 4 + former_ids
while arg < #ARGV do
  local name = KEYS[key + 1]
  if ARGV[arg + 1] == 'c' then
    if is_ours(name) then
      tell_count(name, ARGV[arg + 2])
    else
      foreign[#foreign + 1] = index
    end
    key, arg = key + 1, arg + 2
  else
    local members = KEYS[key + 2]
    if is_ours(name) and is_ours(members) then
      tell_member(name, members, ARGV[arg + 3], ARGV[arg + 2] == '1')
    else
      foreign[#foreign + 1] = index
    end
    key, arg = key + 2, arg + 3
  end
  index = index + 1
end
return table.concat(foreign, ',')
