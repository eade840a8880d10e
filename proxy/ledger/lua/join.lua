#!lua flags=allow-oom
-- A new holder is listed, before it takes its first seat.
--
-- KEYS  the listing of holders: holder -> heartbeats; where it lies on the same server, the mark of a loss of data (rent.lua)
-- ARGV  holder, ttl of the listing (seconds), ttl of the mark (milliseconds), pattern of the channels on which instances listen, or "" to
--       leave them out, holders that whoever joins knows from before, itself among them
-- Comes back: milliseconds since the data was lost, -1: never, as far as is known; and the whole listing, flat: holder, counter, holder,
-- counter, ...; "C" it is not ours, and nothing was done.
--
-- If none of those known before is listed, the data was lost, and the mark says so from this moment on: whoever comes later finds either
-- it or a listing without us. An instance listens from when it was first listed, so channels beyond the holders tell that they were
-- forgotten, or died without a word. Who finds that so begins with 0 heartbeats instead of 1: he will listen too, and so whoever comes
-- just after him would not find it any more.

local listing = redis.pcall('HGETALL', KEYS[1])
if listing.err then return 'C' end
local listed, count = {}, '1'
for i = 1, #listing, 2 do
  if #listing[i] ~= 16 or string.find(listing[i], '[^0-9a-f]') or not string.find(listing[i + 1], '^%d+$') then return 'C' end
  listed[listing[i]] = true
  if listing[i + 1] == '0' and ARGV[4] ~= '' then count = '0' end
end

local lost_for = -1
if KEYS[2] then  -- whoever may not ask knows of no loss
  local is_lost = #ARGV > 4
  for i = 5, #ARGV do is_lost = is_lost and not listed[ARGV[i]] end
  if is_lost then redis.pcall('SET', KEYS[2], '1', 'PX', ARGV[3], 'NX') end
  local left = redis.pcall('PTTL', KEYS[2])
  if type(left) == 'number' and left >= 0 then lost_for = math.max(0, ARGV[3] - left) end
end

local listeners = {}
if ARGV[4] ~= '' then listeners = redis.pcall('PUBSUB', 'CHANNELS', ARGV[4]) end  -- whoever may not ask knows of none
if #listeners > #listing / 2 then count = '0' end
redis.call('HSET', KEYS[1], ARGV[1], count)
redis.call('EXPIRE', KEYS[1], ARGV[2])
listing[#listing + 1] = ARGV[1]
listing[#listing + 1] = count
return {lost_for, listing}
