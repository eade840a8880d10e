#!lua flags=allow-oom
-- A new holder is listed, before it takes its first seat.
--
-- KEYS  the listing of holders: holder -> heartbeats
-- ARGV  holder, ttl of the listing (seconds), pattern of the channels on which instances listen, or "" to leave them out
-- Comes back: how many of these there are, and the whole listing, flat: holder, counter, holder, counter, ...; "C" it is not ours, and
-- nothing was done. An instance listens from when it was first listed, so channels beyond the holders tell that they were forgotten.

local listing = redis.pcall('HGETALL', KEYS[1])
if listing.err then return 'C' end
for i = 1, #listing, 2 do
  if #listing[i] ~= 16 or string.find(listing[i], '[^0-9a-f]') or not string.find(listing[i + 1], '^%d+$') then return 'C' end
end
local listeners = {}
if ARGV[3] ~= '' then listeners = redis.pcall('PUBSUB', 'CHANNELS', ARGV[3]) end  -- whoever may not ask knows of none
redis.call('HSET', KEYS[1], ARGV[1], 1)
redis.call('EXPIRE', KEYS[1], ARGV[2])
listing[#listing + 1] = ARGV[1]
listing[#listing + 1] = '1'
return {#listeners, listing}
