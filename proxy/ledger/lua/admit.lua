-- One ask, or the part of it that lies in one slot: all its claims, or none.
--
-- KEYS  with check 1: the listing of holders first; then for each claim its keys:
--         c  n:{k}          seats of connections: holder -> how many
--         m  n:{k} m:{k}    seats of members: holder -> how many; member -> "holder;holder;"
--         t  u:{k}          a token bucket: "level stamp", stamp in seconds of this server's clock
--         p  p:{k}          a penalty, empty, which is there as long as it lasts
-- ARGV  holder, check (1: the holder must be listed), ttl of seat keys (seconds), then for each claim its kind and
--         c  shadow (0 or 1), limit
--         m  shadow, limit, member
--         t  shadow, rate (tokens per second), burst (tokens), known: tokens that the bucket has at most, or "-"
--         p  0, left: seconds that are known to be left of it
-- Comes back as one text:
--   "G over others... t levels..."     granted. over: indexes from 0 of shadow claims beyond their limit, "1,3" or "-"; others: per
--                              seat claim, what the other holders have of it; levels: per token claim, what is left. Without those no "t"
--   "D broken retry over holders..."   denied. retry: seconds, "inf" never, "-" unknown; holders: who has seats of the broken claim
--   "U"                        the holder is not listed: nothing it says counts
--   "C index"                  a key of this claim holds what is not ours
-- All reading comes before all writing, so an error leaves nothing half done. A denial writes nothing but this: a bucket from the future
-- (this server's clock went back) is stamped anew, or it would stay as it is until the clock is there again.

local MOST_HOLDERS = 1000 -- of one key; it would take as many instances that died in one day

local call, try, find = redis.call, redis.pcall, string.find
local holder, ttl = ARGV[1], ARGV[3]
local key, arg = 0, 3
if ARGV[2] == '1' then
  if call('HEXISTS', KEYS[1], holder) == 0 then return 'U' end
  key = 1
end

-- A holder is 16 hexadecimal digits, and has at least one seat and fewer than a thousand million.
-- Comes back: its own seats, those of the others, all that there is; nil for what is not ours.
local function seats_of(name)
  local all = try('HGETALL', name)
  if all.err or #all > 2 * MOST_HOLDERS then return nil end
  local own, others = 0, 0
  for i = 1, #all, 2 do
    local id, count = all[i], all[i + 1]
    if #count > 9 or not find(count, '^[1-9]%d*$') then return nil end
    if id == holder then
      own = tonumber(count)
    elseif #id == 16 and not find(id, '[^0-9a-f]') then
      others = others + count
    else
      return nil
    end
  end
  return own, others, all
end

-- The same for members, who are counted elsewhere: it looks at all with its first one there, and when somebody is refused.
-- Comes back: its own seats; nil where all is to be looked at.
local function own_of(name)
  local count = try('HGET', name, holder)
  if type(count) == 'string' and #count <= 9 and find(count, '^[1-9]%d*$') then return tonumber(count) end
end

-- Comes back: tokens, and whether they are of a time that is yet to come; nil for what is not ours.
local function level_of(name, rate, burst, known, now)
  local state = try('GET', name)
  if not state then return math.min(burst, known) end
  if type(state) ~= 'string' then return nil end
  local level, stamp = string.match(state, '^(%d[%d.e+-]*) (%d[%d.e+-]*)$')
  level, stamp = tonumber(level), tonumber(stamp)
  if not level or not stamp or level == math.huge or stamp == math.huge then return nil end
  local elapsed = now - stamp
  if elapsed > 0 then level = level + elapsed * rate end
  return math.min(level, burst, known), elapsed < 0
end

local function penalty_of(name)
  local left = call('PTTL', name)
  if left == -2 then return 0 end
  if left == -1 or try('GET', name) ~= '' then return nil end
  return left / 1000
end

local over, others, levels, now = {}, {}, {}, nil
local counts, members, buckets = {}, {}, {} -- what is to be written

local function put(bucket, level)
  local full = math.min(math.ceil((bucket.burst - level) / bucket.rate * 1000) + 1000, 31536000000)
  call('SET', bucket.name, string.format('%.17g %.17g', level, now), 'PX', full)
end

local index = 0
while arg < #ARGV do
  local kind, shadow, limit = ARGV[arg + 1], ARGV[arg + 2] == '1', tonumber(ARGV[arg + 3])
  local name = KEYS[key + 1]
  local fits, retry, holders = true, '-', nil
  if kind == 't' then
    local burst = tonumber(ARGV[arg + 4])
    if not now then
      local time = call('TIME')
      now = time[1] + time[2] / 1000000
    end
    local level, is_ahead = level_of(name, limit, burst, tonumber(ARGV[arg + 5]) or burst, now)
    if not level then return 'C ' .. index end
    fits = limit > 0 and level >= 1
    if fits or (is_ahead and limit > 0) then
      buckets[#buckets + 1] = {name = name, level = level, rate = limit, burst = burst, taken = fits and 1 or 0, is_ahead = is_ahead}
    end
    if fits then
      level = level - 1
    elseif limit <= 0 or burst < 1 then
      retry = 'inf'
    else
      retry = string.format('%.17g', (1 - level) / limit)
    end
    levels[#levels + 1] = string.format('%.9g', level)
    key, arg = key + 1, arg + 5
  elseif kind == 'p' then
    local left = penalty_of(name)
    if not left then return 'C ' .. index end
    left = math.max(left, limit)
    fits, retry = left <= 0, string.format('%.17g', left)
    key, arg = key + 1, arg + 3
  else
    local own, elsewhere = kind == 'm' and own_of(name), nil
    if not own then own, elsewhere, holders = seats_of(name) end
    if not own then return 'C ' .. index end
    if kind == 'c' then
      fits = own + elsewhere < limit
      counts[#counts + 1], counts[#counts + 2] = name, own
      key, arg = key + 1, arg + 3
    else
      local whom, member = KEYS[key + 2], ARGV[arg + 4]
      local having = try('HGET', whom, member)
      if having and (type(having) == 'table' or #having % 17 ~= 0 or having == '' or find(having, '[^0-9a-f;]')) then
        return 'C ' .. index
      end
      local count = call('HLEN', whom)
      if count > 0 and holders and #holders == 0 then return 'C ' .. index end
      fits = having or count < limit
      if not (fits or holders) then
        own, elsewhere, holders = seats_of(name)
        if not own then return 'C ' .. index end
      end
      elsewhere = count - own
      if not having or not find(having, holder .. ';', 1, true) then
        members[#members + 1] = {name = name, own = own, whom = whom, member = member, text = (having or '') .. holder .. ';'}
      end
      key, arg = key + 2, arg + 4
    end
    others[#others + 1] = elsewhere
  end
  if not fits then
    if not shadow then
      for _, bucket in ipairs(buckets) do
        if bucket.is_ahead then pcall(put, bucket, bucket.level) end
      end
      local answer = {'D', index, retry, #over > 0 and table.concat(over, ',') or '-'}
      for i = 1, holders and #holders or 0, 2 do answer[#answer + 1] = holders[i] end
      return table.concat(answer, ' ')
    end
    over[#over + 1] = index
  end
  index = index + 1
end

for i = 1, #counts, 2 do
  call('HINCRBY', counts[i], holder, 1)
  if counts[i + 1] == 0 then call('EXPIRE', counts[i], ttl) end  -- else the holder speaks of this key long before it expires
end
for _, seat in ipairs(members) do
  call('HINCRBY', seat.name, holder, 1)
  call('HSET', seat.whom, seat.member, seat.text)
  if seat.own == 0 then
    call('EXPIRE', seat.name, ttl)
    call('EXPIRE', seat.whom, ttl)
  end
end
for _, bucket in ipairs(buckets) do put(bucket, bucket.level - bucket.taken) end
if #levels > 0 then others[#others + 1] = 't ' .. table.concat(levels, ' ') end
return 'G ' .. (#over > 0 and table.concat(over, ',') or '-') .. (#others > 0 and ' ' .. table.concat(others, ' ') or '')
