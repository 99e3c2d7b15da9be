-- The sessions of an account that are alive, each with its record and tenant. ARGV: account.
local set, all = account_key(ARGV[3]), {}
for _, quoted in ipairs(redis.call('SMEMBERS', set)) do
  local sid = text(decode(quoted))
  if redis.call('EXISTS', key('heartbeat:' .. sid)) == 1 then
    local found = redis.call('GET', key('ws-session:' .. sid))
    if found then
      all[#all + 1] = found
      all[#all + 1] = owner_of(sid).tenant
    end
  else
    redis.call('SREM', set, quoted)
  end
end
return all
