-- The instance of the node that has a session open, '' if none has. ARGV: sid.
local owner = owner_of(ARGV[3])
if owner.state ~= 'live' or redis.call('EXISTS', key('heartbeat:' .. ARGV[3])) == 0 then return '' end
return owner.instance
