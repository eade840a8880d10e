-- One instance speaks about one bucket that all instances share: it asks for tokens, gives the bucket back, or leaves it.
--
-- Whoever asks while nobody else does owns the bucket: it has all of it, and says nothing more about it until somebody else asks.
-- Otherwise tokens are leased: taken from the level here, and never given back. So level and live leases together are at most the
-- bucket and what has come in a lease's time, whatever the instances do; nothing needs to be remembered of a lease.
--
-- KEYS  b:{k}, a hash: l, s   level, and its stamp (microseconds of this server's clock)
--                      o, e   the owner's id and the epoch of its ownership, if there is an owner: the number of the question that made it so
--                      w      1 if another one wants the bucket from its owner
--                      i<id>  an instance that has asked lately: "when need slot"; slot: when its turn is to ask again (0: any time)
--       if whoever asks must be listed: the listing of holders; the mark of a loss of data, which lives for a day from then on
-- ARGV  1 id   2 prefix of channels: an instance hears on prefix .. id
--       3 verb: ask | yield (the owner gives the bucket back) | leave (nobody there uses it any more)
--       4 rate (tokens per second)   5 burst (tokens); both 0 if whoever yields knows nothing of the bucket
--       6 epoch of the ownership that the instance believes in, or ""
--       7 with an epoch: the level then (tokens); without: tokens that a bucket begins with whose data was lost
--       8 need (tokens; 0: nothing at once)   9 want (tokens, at least need; of an owner: more than 0 if it still uses the bucket)
--       10 may own: 1 or 0
--       11 microseconds for which the store is known to have been there; -1: always
--       12 microseconds since it lost its data; a bucket that is not here then began with so little; -1: never, and it is full
--       13 tokens that the bucket has at most, as the instance knows, whatever is found here; -1: it does not know
--       14 the instance's id as a holder
--       15 number of the last question that this instance has asked about anything; if this is one: its own   16 the last epoch of this
--       bucket of which it may have heard   17 microseconds for which the store was away before (11): what came in then is not refilled
--       18 the owner, as an answer named it, that was told in vain to give the bucket back; or ""
-- Comes back as one text:
--   "O level epoch"                the bucket is the instance's own
--   "L tokens retry sharers left"  a lease of tokens, perhaps 0; retry: milliseconds until it is worth asking again; sharers: instances;
--                                  left: tokens that the bucket has now, -1 if that is not known
--   "W retry sharers owner"        another one owns it and was told; ask again when told, or after so many milliseconds
--   "K"                            done, or too late to be done
--   "U"                            the holder is not listed, so the store may have lost its data: nothing was done
--   "C"                            the key holds what is not ours
-- Channels carry "y<key>": give the bucket back, and "f<key>": it was given back, ask again.

local LATE = 0.25           -- seconds: of a lease and of SPARE together (leased_bucket.py has the same rule)
local SHORT_SPARE = 0.05    -- seconds: a shared bucket of a small burst holds so much more, or polls would find nothing
local PACE = 200000         -- microseconds between the questions of an instance that cannot have what it wants; less where burst is small
local ACTIVE = 2000000      -- microseconds for which an instance counts after it has asked
local PATIENCE = 150        -- milliseconds until an owner that does not answer has lost the bucket
local RETURN = 10000000     -- microseconds after an outage, for which not all may be back
local GRACE = 250000        -- microseconds for which a slot is kept after its time
local FORGET = 10000000     -- microseconds after which an instance's field is removed
local OWNED_TTL = 86400000  -- milliseconds
local MARK_TTL = 86400000   -- milliseconds, of the mark of a loss (rent.py)
local UNUSED = 15000000     -- microseconds for which a bucket is kept that is full
local MOST_FIELDS = 4096    -- more than instances ever leave in a bucket, and fewer than Lua can unpack
local LARGEST = 2 ^ 53

local key, id, verb = KEYS[1], ARGV[1], ARGV[3]
if KEYS[2] and verb == 'ask' and redis.call('HEXISTS', KEYS[2], ARGV[14]) == 0 then return 'U' end
local rate, burst = tonumber(ARGV[4]), tonumber(ARGV[5])
local SPARE = burst >= rate * LATE and 0 or SHORT_SPARE
local pace = math.min(PACE, (burst / math.max(rate, 0.000001) + SPARE) * 500000)
local need, want = tonumber(ARGV[8]), tonumber(ARGV[9])
local known, kept, most = tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])
local asked, heard, away = tonumber(ARGV[15]), tonumber(ARGV[16]), tonumber(ARGV[17])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])

-- what there is

local function number(found)  -- nil for what this script does not write: nan, infinities, negative ones
  local value = tonumber(found)
  if value and value >= 0 and value <= LARGEST then return value end
end

local size = redis.pcall('HLEN', key)
if type(size) ~= 'number' or size > MOST_FIELDS then return 'C' end
local state = redis.call('HGETALL', key)
local level, stamp, owner, epoch, wanted
local others, stale = {}, {}
for i = 1, #state, 2 do
  local name, value = state[i], state[i + 1]
  if name == 'o' then owner = value
  elseif name == 'e' then epoch = value
  elseif name == 'l' or name == 's' or name == 'w' then
    local found = number(value)
    if not found then return 'C' end
    if name == 'l' then level = found elseif name == 's' then stamp = found else wanted = found end
  elseif string.sub(name, 1, 1) == 'i' then
    local at, its_need, slot = string.match(value, '^(%S+) (%S+) (%S+)$')
    at, its_need, slot = number(at), number(its_need), number(slot)
    if not (at and its_need and slot) then return 'C' end
    if at > now or at + FORGET < now and slot + GRACE < now then
      stale[#stale + 1] = name
    elseif name ~= 'i' .. id then
      local pending = slot + GRACE > now
      others[#others + 1] = {
        id = string.sub(name, 2), need = its_need, slot = slot, pending = slot > 0 and pending, active = at + ACTIVE > now or pending,
      }
    end
  else return 'C' end
end
local won = number(epoch)
if #state > 0 and not (level and stamp) or not owner ~= not won then return 'C' end

local function text(value) return string.format('%.17g', value) end
local function tell(to, word) redis.call('PUBLISH', ARGV[2] .. to, word .. key) end

local function store(fields, ttl)
  redis.call('HSET', key, 'l', text(level), 's', string.format('%.0f', now), unpack(fields))
  redis.call('PEXPIRE', key, string.format('%.0f', ttl))
end

local function note(slot) return {'i' .. id, string.format('%.0f %s %.0f', now, text(need), slot)} end

local function until_full()
  if rate <= 0 then return OWNED_TTL end
  return math.min(((burst - level) / rate + SPARE) * 1000 + UNUSED / 1000, 31536000000)
end

local function release(found)  -- nil: what it had when it got its owner
  if found then level, stamp = found, now end
  owner, epoch, wanted = nil, nil, nil
  redis.call('HDEL', key, 'o', 'e', 'w')
  for _, other in ipairs(others) do
    if other.need > 0 and other.active then tell(other.id, 'f') end
  end
end

local sharers = 1
for _, other in ipairs(others) do
  if other.active then sharers = sharers + 1 end
end

-- the owner

-- What a silent owner leaves: just after an outage a share, since he may have become it by a question from before, and know nothing.
local lost = known >= 0 and known < RETURN and ARGV[6] == '' and tonumber(ARGV[7]) or 0

-- An owner who tells that he still is may have become it anew by that, and not have heard the answer.
local believed = tonumber(ARGV[6])
local mine = owner == id and believed and (believed == won or believed < won and won <= heard)
if mine and verb == 'ask' and not wanted then
  redis.call('PEXPIRE', key, OWNED_TTL)
  return table.concat({'O', ARGV[7], epoch}, ' ')
elseif mine then
  release(number(ARGV[7]) or 0)
elseif owner == id and won > asked then
  return 'K'  -- this ran after a question that was asked later
elseif owner == id and won > heard then
  release()  -- it was told so, but never heard it, and so has spent nothing of it
elseif owner == id then
  release(0)  -- it has forgotten it: nobody knows what is left
elseif owner and verb == 'ask' then
  if want == 0 then return table.concat({'L 0 0', sharers, -1}, ' ') end
  local name = owner .. ':' .. epoch
  tell(owner, 'y')  -- also when he loses it: the first time may have been lost by a failover
  if ARGV[18] ~= name then  -- whoever asked before may not have heard that there is an owner, nor this one of him
    redis.call('HSET', key, 'w', '1', unpack(note(0)))
    return table.concat({'W', PATIENCE + 1, math.max(sharers, 2), name}, ' ')
  end
  release(lost)
elseif owner or verb == 'yield' and level or verb ~= 'ask' and ARGV[6] == '' and not level then
  return 'K'  -- somebody else has it, or it was given back before, or is gone
end

-- nobody owns it

local capacity = burst
if sharers > 1 then capacity = burst + rate * SPARE end
if not level then
  local left = KEYS[3] and redis.call('PTTL', KEYS[3]) or -1
  if left >= 0 then kept = math.min(kept < 0 and LARGEST or kept, math.max(0, MARK_TTL - left) * 1000) end
  local given = tonumber(ARGV[7])
  if ARGV[6] ~= '' then level = math.min(number(ARGV[7]) or 0, burst)
  else
    level = burst
    if kept >= 0 then level = math.min(level, given + rate * kept / 1000000) end
    if away > UNUSED then  -- it may have expired meanwhile, full of what came in then and was not for it
      level = math.min(level, math.max(given, burst - rate * (away - UNUSED) / 1000000) + rate * known / 1000000)
    end
  end
else
  local elapsed = math.max(0, now - stamp)
  if known >= 0 then elapsed = math.max(math.min(elapsed, known), elapsed - away) end
  level = math.min(capacity, level + elapsed * rate / 1000000)
end
if most >= 0 then level = math.min(level, most) end

if verb ~= 'ask' then
  redis.call('HDEL', key, 'i' .. id, unpack(stale))
  if verb == 'yield' and want > 0 then  -- its owner used it just now: whoever gets it next shares it
    store(note(0), until_full())
    return 'K'
  end
  if level >= burst and rate > 0 and sharers == 1 then redis.call('DEL', key) else store({}, until_full()) end
  return 'K'
end
if #stale > 0 then redis.call('HDEL', key, unpack(stale)) end

if ARGV[10] == '1' and sharers == 1 and (want > 0 or ARGV[6] ~= '') then
  local all, new = math.min(level, burst), ARGV[15]
  store({'o', id, 'e', new}, OWNED_TTL)
  redis.call('HDEL', key, 'i' .. id)
  return table.concat({'O', text(all), new}, ' ')
end
if want == 0 then
  store({}, until_full())
  return table.concat({'L 0 0', sharers, text(level)}, ' ')
end

local before = string.match(redis.call('HGET', key, 'i' .. id) or '', ' (%S+)$')
local place = tonumber(before) or 0
if place + GRACE < now then place = 0 end
local ahead, reserved = 0, 0
for _, other in ipairs(others) do
  if other.pending then
    reserved = reserved + other.need
    if place == 0 or other.slot < place then ahead = ahead + other.need end
  end
end

local granted = 0
if level - ahead + 0.000001 >= need then
  local free = (level - reserved - need) * 2 / (sharers + 1)
  granted = need + math.max(0, math.floor(math.min(want - need, free)))
  level = math.max(0, level - granted)
  ahead = reserved
end
local slot = 0
if granted < want or granted == 0 then
  slot = math.min(now + math.max(pace, (ahead + need - level) / rate * 1000000), LARGEST)
end
store(note(slot), until_full())
return table.concat({'L', text(granted), slot > 0 and math.ceil((slot - now) / 1000) + 1 or 0, sharers, text(level)}, ' ')
