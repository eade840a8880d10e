-- A token comes back: it was taken for an upgrade that was refused in another slot of a Cluster.
--
-- KEYS  u:{k}          a token bucket: "level stamp"
-- ARGV  burst (tokens)
-- Comes back: 1. A bucket that is not there is full.

local state = redis.call('GET', KEYS[1])
local level, stamp = string.match(state or '', '^(%S+) (%S+)$')
level = tonumber(level)
if level then
  level = math.min(level + 1, tonumber(ARGV[1]))
  redis.call('SET', KEYS[1], string.format('%.17g %s', level, stamp), 'KEEPTTL')
end
return 1
