-- Renews a node's lease of its number, which Redis may have lost; answers '' or, if it is another's, that
-- one's instance. ARGV: what stands before every key, instance, run, life of the lease (ms), number.
local name = ARGV[1] .. 'node-number:' .. ARGV[5]
local own = ARGV[2] .. ' ' .. ARGV[3]
local holder = redis.call('GET', name)
if holder and holder ~= own then return string.sub(holder, 1, #ARGV[2]) end
redis.call('SET', name, own, 'PX', ARGV[4])
redis.call('SET', ARGV[1] .. 'node-number-of:' .. ARGV[2], ARGV[5], 'PX', ARGV[4])
return ''
