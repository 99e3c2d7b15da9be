-- Says that this node is there, takes out those that have not said so for too long, and names the others,
-- the newest first. ARGV: what stands before every key, now (Unix time in ms), this node's record, its
-- instance, seconds after which a node counts as gone, how many are named at most.
local name = ARGV[1] .. 'zset:broadcast-registry'
local seconds = math.floor(tonumber(ARGV[2]) / 1000)
redis.call('ZADD', name, seconds, ARGV[3])
redis.call('ZREMRANGEBYSCORE', name, '-inf', '(' .. string.format('%.0f', seconds - tonumber(ARGV[5])))

local others = {}
for _, member in ipairs(redis.call('ZREVRANGE', name, 0, tonumber(ARGV[6]))) do
  local good, record = pcall(cjson.decode, member)
  local instance = good and type(record) == 'table' and record.InstanceId
  if type(instance) == 'string' and string.lower(instance) == ARGV[4] then
    -- What this node was before it was started again.
    if member ~= ARGV[3] then redis.call('ZREM', name, member) end
  else
    others[#others + 1] = member
  end
end
return others
