#!lua
-- May anything be written? Without flags a script is refused before it begins by a server that is out of memory, or a replica.
--
-- KEYS  the listing of holders, so that a Cluster asks whoever has it
-- ARGV  none
-- Comes back: 1.

return 1
