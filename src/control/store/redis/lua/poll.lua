-- Renews this node's lease, and fetches what other nodes have done to its sessions. ARGV: instance, run,
-- life of the lease (ms), whether this process has just begun, how many entries at most.
local instance, run, ttl, begins, most = ARGV[3], ARGV[4], ARGV[5], ARGV[6] == '1', tonumber(ARGV[7])
local name, entries = key('node:' .. instance), key('evicted:' .. instance)
local holder = redis.call('GET', name)
if holder == run then
  redis.call('PEXPIRE', name, ttl)
elseif begins or not holder then
  redis.call('SET', name, run, 'PX', ttl)
else
  return { 'taken' }
end
-- What an earlier process of this node should have heard is nobody's any more.
if begins then redis.call('DEL', entries) end
redis.call('SET', key('store-born'), ARGV[2], 'NX')
local found = redis.call('LRANGE', entries, 0, most - 1)
if #found > 0 then redis.call('LTRIM', entries, #found, -1) end
return { 'held', redis.call('GET', key('store-born')), unpack(found) }
