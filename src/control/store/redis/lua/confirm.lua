-- The client has the newest token: the one before is void. ARGV: sid, epoch.
local owner = owner_of(ARGV[3])
if tonumber(owner.epoch) ~= tonumber(ARGV[4]) then return 'outdated' end
if owner.previous ~= '' then
  redis.call('HSET', key('owner:' .. ARGV[3]), 'previous', '')
  drop('reconnect:' .. owner.previous)
end
return 'released'
