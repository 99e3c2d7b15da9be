-- A session is over, if it is still of that claim. ARGV: sid, epoch, this node.
local owner = owner_of(ARGV[3])
local ours = tonumber(owner.epoch) == tonumber(ARGV[4]) and owner.instance == ARGV[5]
if not ours then return 'outdated' end
forget(ARGV[3], owner)
return 'released'
