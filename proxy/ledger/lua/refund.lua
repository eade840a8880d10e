-- A token comes back: it was taken for an upgrade that was refused in another slot of a Cluster.
--
-- KEYS  u:{k}          a token bucket: "level stamp"
-- ARGV  burst (tokens)
-- Comes back: 1. A bucket that is not there is full; one that is not ours stays as it is.

local state = redis.pcall('GET', KEYS[1])
if type(state) ~= 'string' then return 1 end
local level, stamp = string.match(state, '^(%d[%d.e+-]*) (%d[%d.e+-]*)$')
level = tonumber(level)
if level then
  level = math.min(level + 1, tonumber(ARGV[1]))
  redis.call('SET', KEYS[1], string.format('%.17g %s', level, stamp), 'KEEPTTL')
end
return 1
