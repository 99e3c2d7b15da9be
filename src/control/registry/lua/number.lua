-- Leases a number to a node: the one that it had, or else the first from ARGV[5] on that nobody has. A newer
-- process of the same node takes it over. ARGV: what stands before every key, instance, run, life of the
-- lease (ms), number to begin with, how many numbers there are.
local instance, run, ttl = ARGV[2], ARGV[3], ARGV[4]
local first, count = tonumber(ARGV[5]), tonumber(ARGV[6])
local memory = ARGV[1] .. 'node-number-of:' .. instance

local function lease(number)
  local name = ARGV[1] .. 'node-number:' .. string.format('%.0f', number)
  local holder = redis.call('GET', name)
  if holder and string.sub(holder, 1, #instance) ~= instance then return false end
  redis.call('SET', name, instance .. ' ' .. run, 'PX', ttl)
  redis.call('SET', memory, string.format('%.0f', number), 'PX', ttl)
  return true
end

local before = tonumber(redis.call('GET', memory) or '')
if before and lease(before) then return before end
for step = 0, count - 1 do
  local number = (first + step) % count
  if lease(number) then return number end
end
return -1
