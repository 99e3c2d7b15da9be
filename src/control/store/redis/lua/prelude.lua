-- What all scripts begin with. ARGV[1] stands before every key, ARGV[2] is the Unix time in ms.
-- A script that writes begins with a SET or HSET: if the memory is used up, it fails before anything
-- has changed; later writes of the same script are let through.
local now = tonumber(ARGV[2])

local function key(name) return ARGV[1] .. name end

local function number(value) return string.format('%.0f', value) end

-- A value as other programs keep it: with a hash that counts its versions.
local function save(name, value, ttl)
  redis.call('SET', key(name), value, 'PX', ttl)
  local meta = key(name .. ':meta')
  redis.call('HINCRBY', meta, 'version', 1)
  redis.call('HSET', meta, 'updated', ARGV[2])
  redis.call('PEXPIRE', meta, ttl)
end

local function drop(name) redis.call('DEL', key(name), key(name .. ':meta')) end

local function decode(text)
  local good, value = pcall(cjson.decode, text)
  if good then return value end
end

-- '' for what is not there.
local function text(value)
  if type(value) == 'string' then return value end
  return ''
end

-- An empty table would become an object.
local function list(value)
  if type(value) ~= 'table' or #value == 0 then return '[]' end
  return cjson.encode(value)
end

-- The newest claim on a session; empty if none is known.
local function owner_of(sid)
  local fields = { 'epoch', 'instance', 'run', 'token', 'previous', 'state', 'tenant', 'issued', 'expires', 'foreign' }
  local found, owner = redis.call('HMGET', key('owner:' .. sid), unpack(fields)), {}
  for i, field in ipairs(fields) do owner[field] = text(found[i]) end
  return owner
end

-- The newest claim that another node has made before a claim of this instance.
local function foreign_to(owner, instance)
  if owner.instance ~= '' and owner.instance ~= instance then return owner.epoch end
  return owner.foreign
end

local function record_of(sid)
  local found = redis.call('GET', key('ws-session:' .. sid))
  if found then return decode(found) end
end

-- The set of an account's sessions.
local function account_key(account)
  local bare = string.gsub(account, '-', '')
  if #account == 36 and #bare == 32 and not string.find(bare, '%X') then account = string.lower(bare) end
  return key('set:account-sessions:' .. account)
end

local function member(sid) return '"' .. sid .. '"' end

-- Roles and authorizations are JSON.
local function record(sid, epoch, who, more)
  local account = ''
  if who.account ~= '' then account = '"AccountId":' .. cjson.encode(who.account) .. ',' end
  local since = number(math.floor(epoch / 1000))
  return '{"SessionId":"' .. sid .. '",' .. account .. '"ConnectedAtUnix":' .. since
    .. ',"LastActivityUnix":' .. since .. ',' .. (more or '') .. '"UserRoles":' .. who.roles
    .. ',"Authorizations":' .. who.authorizations .. ',"IsInReconnectionWindow":'
    .. (more and 'true' or 'false') .. '}'
end

local function heartbeat(sid, instance)
  return '{"SessionId":"' .. sid .. '","InstanceId":"' .. instance .. '","LastSeenUnix":'
    .. number(math.floor(now / 1000)) .. ',"ConnectionCount":1}'
end

-- Tells another node that a session of its own is so no longer.
local function evict(instance, ttl, entry)
  local name = key('evicted:' .. instance)
  redis.call('RPUSH', name, cjson.encode(entry))
  redis.call('PEXPIRE', name, ttl)
end

-- Services that told who watches what have to say so again when the session is back (spec 7.1, 10.3).
local function unbind(sid)
  local name = key('set:session-entities:' .. sid)
  for _, quoted in ipairs(redis.call('SMEMBERS', name)) do
    local entity = text(decode(quoted))
    if entity ~= '' then redis.call('SREM', key('set:entity-sessions:' .. entity), member(sid)) end
  end
  redis.call('DEL', name)
end

-- Nothing is left of a session, except that it may have been revoked.
local function forget(sid, owner)
  unbind(sid)
  local found = record_of(sid)
  if found then
    local account = text(found.AccountId)
    if account ~= '' then redis.call('SREM', account_key(account), member(sid)) end
    local token = text(found.ReconnectionToken)
    if token ~= '' then drop('reconnect:' .. token) end
  end
  if owner.token ~= '' then drop('reconnect:' .. owner.token) end
  if owner.previous ~= '' then drop('reconnect:' .. owner.previous) end
  drop('ws-session:' .. sid)
  drop('heartbeat:' .. sid)
  redis.call('DEL', key('owner:' .. sid), key('client-cursor:' .. sid))
end

-- A live session as its owner knows it.
local function write_live(a, previous, foreign)
  local who = { account = a.account, roles = a.roles, authorizations = a.authorizations }
  save('ws-session:' .. a.sid, record(a.sid, a.epoch, who), a.ttl)
  local name = key('owner:' .. a.sid)
  redis.call('HSET', name, 'epoch', number(a.epoch), 'instance', a.instance, 'run', a.run,
    'token', a.token, 'previous', previous, 'state', 'live', 'tenant', a.tenant,
    'issued', a.issued, 'expires', a.expires, 'foreign', foreign)
  redis.call('PEXPIRE', name, a.ttl)
  save('heartbeat:' .. a.sid, heartbeat(a.sid, a.instance), a.heartbeat_ttl)
  if a.account ~= '' then
    local set = account_key(a.account)
    redis.call('SADD', set, member(a.sid))
    redis.call('PEXPIRE', set, a.ttl)
  end
end

-- What describes a live session, from ARGV[3] on.
local function live_arguments()
  return {
    sid = ARGV[3], epoch = tonumber(ARGV[4]), token = ARGV[5], instance = ARGV[6], run = ARGV[7],
    account = ARGV[8], tenant = ARGV[9], roles = ARGV[10], authorizations = ARGV[11],
    issued = ARGV[12], expires = ARGV[13], cursor = ARGV[14], ttl = tonumber(ARGV[15]),
    heartbeat_ttl = tonumber(ARGV[16]),
  }
end
