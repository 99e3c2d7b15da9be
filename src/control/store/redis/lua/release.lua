-- A session whose connection is gone waits to be taken up; only while it is of that claim.
-- ARGV: sid, epoch, when it ended (ms), window (s), how long the rest is kept (ms), cursor, then as its
-- owner knows it: account, roles, authorizations; '' for the roles takes what is recorded; and this node,
-- for the epoch of a claim that was not granted may be another's.
local sid, epoch, ended, window = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local ttl, cursor = tonumber(ARGV[7]), ARGV[8]
local owner = owner_of(sid)
local ours = tonumber(owner.epoch) == epoch and owner.instance == ARGV[12]
if not ours or owner.state ~= 'live' then return 'outdated' end

local who = { account = ARGV[9], roles = ARGV[10], authorizations = ARGV[11] }
if who.roles == '' then
  local found = record_of(sid)
  if not found then return 'outdated' end
  who = { account = text(found.AccountId), roles = list(found.UserRoles), authorizations = list(found.Authorizations) }
end
local ended_s = math.floor(ended / 1000)
local good_ms = (ended_s + window) * 1000 - now
if good_ms <= 0 then
  forget(sid, owner)
  return 'released'
end
local more = '"ReconnectionExpiresAtUnix":' .. number(ended_s + window) .. ',"DisconnectedAtUnix":' .. number(ended_s)
  .. ',"ReconnectionToken":"' .. owner.token .. '",'
if owner.previous ~= '' then more = more .. '"PreviousReconnectionToken":"' .. owner.previous .. '",' end
save('ws-session:' .. sid, record(sid, epoch, who, more), ttl)
save('reconnect:' .. owner.token, cjson.encode(sid), good_ms)
if owner.previous ~= '' then save('reconnect:' .. owner.previous, cjson.encode(sid), good_ms) end
redis.call('HSET', key('owner:' .. sid), 'state', 'waiting')
redis.call('PEXPIRE', key('owner:' .. sid), ttl)
if cursor ~= '' then
  redis.call('SET', key('client-cursor:' .. sid), cursor, 'PX', ttl)
else
  redis.call('PEXPIRE', key('client-cursor:' .. sid), ttl)
end
if who.account ~= '' then redis.call('SREM', account_key(who.account), member(sid)) end
unbind(sid)
return 'released'
