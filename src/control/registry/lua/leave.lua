-- Takes a node out of the registry. ARGV: what stands before every key, its record.
return redis.call('ZREM', ARGV[1] .. 'zset:broadcast-registry', ARGV[2])
