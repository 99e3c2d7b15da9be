-- A live session as its owner knows it: kept from ageing, and written anew where it is missing or older.
local a = live_arguments()
local owner = owner_of(a.sid)
local stored = tonumber(owner.epoch) or 0
-- Two nodes that let somebody in without Redis may have chosen the same epoch: the first one here has it.
local tie = stored == a.epoch and owner.instance ~= a.instance
if stored > a.epoch or tie then return 'newer' end

local revoked = redis.call('GET', key('revoked:' .. a.sid))
if revoked and (tonumber(a.issued) or 0) <= tonumber(revoked) then return 'ended' end

local whole = stored == a.epoch and redis.call('EXISTS', key('ws-session:' .. a.sid)) == 1
if whole then
  save('heartbeat:' .. a.sid, heartbeat(a.sid, a.instance), a.heartbeat_ttl)
  local names = { 'ws-session:' .. a.sid, 'ws-session:' .. a.sid .. ':meta', 'owner:' .. a.sid, 'client-cursor:' .. a.sid }
  for _, name in ipairs(names) do redis.call('PEXPIRE', key(name), a.ttl) end
  if a.account ~= '' then
    redis.call('SADD', account_key(a.account), member(a.sid))
    redis.call('PEXPIRE', account_key(a.account), a.ttl)
  end
else
  write_live(a, stored == a.epoch and owner.previous or '', foreign_to(owner, a.instance))
  if owner.instance ~= '' and owner.instance ~= a.instance then
    evict(owner.instance, a.ttl, { sid = a.sid, epoch = number(a.epoch), why = 'replaced' })
  end
end
-- What an earlier claim has left is not this one's.
if a.cursor ~= '' then
  redis.call('SET', key('client-cursor:' .. a.sid), a.cursor, 'PX', a.ttl)
elseif stored < a.epoch then
  redis.call('DEL', key('client-cursor:' .. a.sid))
end
return whole and 'kept' or 'written'
