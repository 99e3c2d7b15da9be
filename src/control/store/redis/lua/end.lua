-- Ends a session for good, whoever has it; says whether there was one. ARGV: sid, when (s), for how long that is remembered (ms), this
-- node, whether its connection is closed, the reason.
local sid, ttl = ARGV[3], tonumber(ARGV[5])
redis.call('SET', key('revoked:' .. sid), ARGV[4], 'PX', ttl)
local owner = owner_of(sid)
if owner.instance ~= '' and owner.instance ~= ARGV[6] then
  local entry = { sid = sid, epoch = owner.epoch, why = 'ended' }
  if ARGV[7] == '1' then entry.reason = ARGV[8] end
  evict(owner.instance, ttl, entry)
end
local existed = redis.call('EXISTS', key('ws-session:' .. sid)) == 1
forget(sid, owner)
return existed and 'ended' or 'none'
