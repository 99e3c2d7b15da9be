-- Grants a session to the one who asks, or changes nothing and says why not.
-- ARGV[17] is the reconnect token that was brought, '' if it was another kind; ARGV[18] the window.
local a, used, window = live_arguments(), ARGV[17], tonumber(ARGV[18])
local guessed = a.sid
local owner, found = owner_of(a.sid), nil

if used ~= '' then
  local foreign = used ~= owner.token and used ~= owner.previous
  if foreign then
    -- None of ours: whoever wrote it says whose it is.
    local named = redis.call('GET', key('reconnect:' .. used))
    a.sid = named and text(decode(named)) or ''
    if a.sid == '' then return { 'refused', 'unknown' } end
    owner = owner_of(a.sid)
  end
  found = record_of(a.sid)
  if not found then return { 'refused', 'unknown' } end
  local current = text(found.ReconnectionToken)
  if type(found.DisconnectedAtUnix) == 'number' then
    local expires = tonumber(found.ReconnectionExpiresAtUnix) or 0
    local good = used == owner.previous or used == current
    -- Whoever took it up in between, without knowing of us, has written a token of his own.
    if owner.token ~= '' and not foreign then good = current == owner.token end
    if not good or expires * 1000 <= now then return { 'refused', 'unknown' } end
  else
    local lives = redis.call('EXISTS', key('heartbeat:' .. a.sid)) == 1
    if owner.state == 'waiting' or not lives then return { 'refused', 'unknown' } end
    if foreign and used ~= owner.previous then return { 'refused', 'unknown' } end
  end
  a.account, a.tenant = text(found.AccountId), owner.tenant ~= '' and owner.tenant or 'default'
  a.roles, a.authorizations = list(found.UserRoles), list(found.Authorizations)
  a.issued, a.expires = owner.issued, owner.expires
else
  local revoked = redis.call('GET', key('revoked:' .. a.sid))
  if revoked and (tonumber(a.issued) or 0) <= tonumber(revoked) then return { 'refused', 'revoked' } end
  found = record_of(a.sid)
  if found then
    local tenant = owner.tenant ~= '' and owner.tenant or 'default'
    if text(found.AccountId) ~= a.account or tenant ~= a.tenant then return { 'refused', 'mismatch' } end
  end
end

-- The token that goes with session and epoch is the caller's to make.
local stored = tonumber(owner.epoch) or 0
if stored >= a.epoch then return { 'retry', a.sid, number(stored + 1) } end
if a.sid ~= guessed then return { 'retry', a.sid, number(a.epoch) } end

-- The one that its client surely has stays good until it has the new one.
local previous = used
if used == '' and found then previous = owner.previous ~= '' and owner.previous or owner.token end
local foreign = foreign_to(owner, a.instance)
write_live(a, previous, foreign)
for _, token in ipairs({ owner.token, owner.previous, found and text(found.ReconnectionToken) or '' }) do
  if token ~= '' and token ~= used then drop('reconnect:' .. token) end
end
if used ~= '' and redis.call('EXISTS', key('reconnect:' .. used)) == 1 then
  redis.call('PEXPIRE', key('reconnect:' .. used), window)
end

-- A store that nobody has dated is younger than any token: it has just been started without its data.
local born = tonumber(redis.call('GET', key('store-born')) or now)
local older = (tonumber(a.issued) or 0) < math.floor(born / 1000)

-- Of a session that may have been there nobody knows what its client has, until the client has been told so.
-- What comes from here on it has wherever it goes next.
local name = key('client-cursor:' .. a.sid)
local cursor = found and redis.call('GET', name) or false
if cursor then
  redis.call('PEXPIRE', name, a.ttl)
elseif a.cursor == '' then
  redis.call('DEL', name)
elseif found or older then
  cursor = '?' .. a.cursor
  redis.call('SET', name, cursor, 'PX', a.ttl)
else
  redis.call('SET', name, a.cursor, 'PX', a.ttl)
end

if owner.instance ~= '' and owner.instance ~= a.instance then
  evict(owner.instance, a.ttl, { sid = a.sid, epoch = number(a.epoch), why = 'replaced' })
end

return {
  'granted', a.sid, found and '1' or '0', owner.instance, owner.run, owner.epoch, foreign, cursor or '',
  a.account, a.tenant, a.roles, a.authorizations, a.issued, a.expires, older and '1' or '0',
}
