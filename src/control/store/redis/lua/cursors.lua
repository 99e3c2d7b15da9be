-- How far clients have come. ARGV: for how long (ms), then sid, epoch and cursor of each. Says how many
-- were not written because the session has another owner.
local outdated = 0
for i = 4, #ARGV, 3 do
  local epoch = redis.call('HGET', key('owner:' .. ARGV[i]), 'epoch')
  if epoch and tonumber(epoch) == tonumber(ARGV[i + 1]) then
    redis.call('SET', key('client-cursor:' .. ARGV[i]), ARGV[i + 2], 'PX', ARGV[3])
  else
    outdated = outdated + 1
  end
end
return outdated
