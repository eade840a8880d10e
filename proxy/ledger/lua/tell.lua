#!lua flags=allow-oom
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
local former, is_former = {}, {}
for i = 5, 4 + former_ids do
  former[#former + 1] = ARGV[i]
  is_former[ARGV[i]] = true
end


-- What is not ours gets nothing written to it, not even how long it lives. Any other error is everybody's.
local NOT_OURS, checked = 'not ours', {}
local function is_foreign(problem)
  local text = type(problem) == 'table' and problem.err or tostring(problem)
  return string.find(text, 'WRONGTYPE', 1, true) or string.find(text, 'not an integer', 1, true) or string.find(text, NOT_OURS, 1, true)
end

local function check(name)
  if checked[name] then return end
  local all = redis.call('HGETALL', name)
  for i = 1, #all, 2 do
    if #all[i] ~= 16 or string.find(all[i], '[^0-9a-f]') or not string.find(all[i + 1], '^%d+$') then error(NOT_OURS) end
  end
  checked[name] = true
end

local function tell_count(name, count)
  if count == '0' then
    redis.call('HDEL', name, holder, unpack(former))
    return
  end
  check(name)
  if #former > 0 then redis.call('HDEL', name, unpack(former)) end
  redis.call('HSET', name, holder, count)
  redis.call('EXPIRE', name, ttl)
end

local function change(name, id, by)
  if redis.call('HINCRBY', name, id, by) <= 0 then redis.call('HDEL', name, id) end
end

local function tell_member(name, members, wanted, member)
  local before = redis.call('HGET', members, member) or ''
  if #before % 17 ~= 0 or string.find(before, '[^0-9a-f;]') then error(NOT_OURS) end
  if wanted then check(name) end
  local after, had = {}, false
  for id in string.gmatch(before, '[^;]+') do
    if id == holder then
      had = true
    elseif is_former[id] then
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
  elseif text ~= before then
    redis.call('HSET', members, member, text)
  end
  if wanted then
    redis.call('EXPIRE', name, ttl)
    redis.call('EXPIRE', members, ttl)
  end
end

local foreign, index, arg = {}, 0, 4 + former_ids
while arg < #ARGV do
  local done, problem
  if ARGV[arg + 1] == 'c' then
    done, problem = pcall(tell_count, KEYS[key + 1], ARGV[arg + 2])
    key, arg = key + 1, arg + 2
  else
    done, problem = pcall(tell_member, KEYS[key + 1], KEYS[key + 2], ARGV[arg + 2] == '1', ARGV[arg + 3])
    key, arg = key + 2, arg + 3
  end
  if not done then
    if not is_foreign(problem) then error(problem) end
    foreign[#foreign + 1] = index
  end
  index = index + 1
end
return table.concat(foreign, ',')
