-- A session is over, if it is still of that claim. ARGV: sid, epoch.
local owner = owner_of(ARGV[3])
if tonumber(owner.epoch) ~= tonumber(ARGV[4]) then return 'outdated' end
forget(ARGV[3], owner)
return 'released'
