"""The job queue's Lua: each script is one atomic step in the life of a job.

Shared layout. KEYS: job hash, events, input blob, stage's stream, then what the script needs.
ARGV: TTL in s, most events kept, event, then (if a claim acts) group, consumer, entry, delivery.
An owner is known by consumer *and* delivery number, so a consumer that lost a claim and won it
again is not mistaken for its former self. A job is open while its field finished_at is null.
"""

_PRELUDE = """
local function is_open()
  return redis.call('HGET', KEYS[1], 'finished_at') == 'null'
end
local function is_owned()
  local pending = redis.pcall('XPENDING', KEYS[4], ARGV[4], ARGV[6], ARGV[6], 1)
  if pending.err or not pending[1] then return false end
  return pending[1][2] == ARGV[5] and pending[1][4] == tonumber(ARGV[7])
end
local function drop_entry()
  redis.call('XACK', KEYS[4], ARGV[4], ARGV[6])
  redis.call('XDEL', KEYS[4], ARGV[6])
end
local function may_act()
  if not is_owned() then return false end
  if is_open() then return true end
  drop_entry()
  return false
end
local function keep_alive()
  for i = 1, 3 do
    local is_short = redis.call('TTL', KEYS[i]) < tonumber(ARGV[1])
    if is_short then redis.call('EXPIRE', KEYS[i], ARGV[1]) end
  end
end
local function write(first_field)
  redis.call('HSET', KEYS[1], unpack(ARGV, first_field))
  redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[2], '*', 'event', ARGV[3])
end
-- What the open jobs take together: bytes and work, and of each job both.
local function add_load(load, bytes, work)
  redis.call('HSET', load, KEYS[1], bytes .. ' ' .. work)
  redis.call('HINCRBY', load, 'bytes', bytes)
  redis.call('HINCRBY', load, 'work', work)
end
local function drop_load(load)
  local bytes, work = (redis.call('HGET', load, KEYS[1]) or ''):match('(%d+) (%d+)')
  if not bytes then return end
  redis.call('HDEL', load, KEYS[1])
  redis.call('HINCRBY', load, 'bytes', 0 - bytes)
  redis.call('HINCRBY', load, 'work', 0 - work)
  return bytes, work
end
-- The job as JSON, to those who wait for its end.
local function tell_end()
  local fields, parts = redis.call('HGETALL', KEYS[1]), {}
  for i = 1, #fields, 2 do parts[#parts + 1] = '"' .. fields[i] .. '":' .. fields[i + 1] end
  redis.call('PUBLISH', KEYS[2], '{' .. table.concat(parts, ',') .. '}')
end
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
"""

# Extra KEYS: recent finish times, idempotency key, load, the other streams.
# ARGV from 4: group, job id, image, most waiting jobs, digest ('' without idempotency key), work,
# most bytes, most work (0: any), bytes of the image, fields.
# -> {number waiting} if admitted, {} if it was admitted before, {job id} of an earlier job with the
# same key and digest, {''} if the digest is another, else {which limit, waiting, bytes, work, now,
# newest finish, oldest finish, number of finishes}, times in ms.
SUBMIT = (
    _PRELUDE
    + """
local function num_waiting(stream)
  local pending = redis.pcall('XPENDING', stream, ARGV[4])
  return redis.call('XLEN', stream) - (pending.err and 0 or pending[1])
end
if ARGV[8] ~= '' then
  local known = redis.call('HMGET', KEYS[6], 'digest', 'job', 'key')
  -- A job that was forgotten binds nobody.
  if known[1] and redis.call('EXISTS', known[3]) == 1 then
    return {known[1] == ARGV[8] and known[2] or ''}
  end
  -- The caller chose an id that another job has.
  if redis.call('EXISTS', KEYS[1]) == 1 then return {''} end
end
-- redis-py sends a job again if the connection broke before the answer.
if redis.call('EXISTS', KEYS[1]) == 1 then return {} end
local waiting = num_waiting(KEYS[4])
for i = 8, #KEYS do waiting = waiting + num_waiting(KEYS[i]) end
local bytes = tonumber(redis.call('HGET', KEYS[7], 'bytes') or 0)
local work = tonumber(redis.call('HGET', KEYS[7], 'work') or 0)
local limit
if waiting >= tonumber(ARGV[7]) then limit = 'count'
elseif bytes > 0 and bytes + ARGV[12] > tonumber(ARGV[10]) then limit = 'bytes'
elseif tonumber(ARGV[11]) > 0 and work > tonumber(ARGV[11]) then limit = 'work' end
if limit then
  local num = redis.call('LLEN', KEYS[5])
  local newest = redis.call('LINDEX', KEYS[5], 0) or '0'
  local oldest = redis.call('LINDEX', KEYS[5], -1) or '0'
  return {limit, waiting, bytes, work, now_ms(), tonumber(newest), tonumber(oldest), num}
end
write(13)
redis.call('SET', KEYS[3], ARGV[6])
if ARGV[8] ~= '' then
  redis.call('HSET', KEYS[6], 'digest', ARGV[8], 'job', ARGV[5], 'key', KEYS[1])
  redis.call('EXPIRE', KEYS[6], ARGV[1])
end
redis.call('XADD', KEYS[4], '*', 'job', ARGV[5])
keep_alive()
add_load(KEYS[7], ARGV[12], ARGV[9])
-- The count of a job that was forgotten before it ended goes with the whole, once all is quiet.
if redis.call('TTL', KEYS[7]) < tonumber(ARGV[1]) then redis.call('EXPIRE', KEYS[7], ARGV[1]) end
return {waiting + 1}
"""
)

# ARGV from 8: job id, number of tasks, fields. Extra KEYS, if the job moves: its next stream, load.
UPDATE = (
    _PRELUDE
    + """
if not may_act() then return 0 end
write(10)
keep_alive()
if KEYS[5] then
  drop_entry()
  redis.call('XADD', KEYS[5], '*', 'job', ARGV[8])
  -- Until it was planned, it counted as one task.
  local bytes, work = drop_load(KEYS[6])
  if bytes then add_load(KEYS[6], bytes, work * ARGV[9]) end
end
return 1
"""
)

# Progress of many jobs that one consumer holds. KEYS of each: job hash, events, stage's stream.
# ARGV: most events kept, group, consumer, and of each job: entry, delivery, progress, event.
# -> of each whether its claim still holds.
REPORT = """
local holds = {}
for i = 1, #KEYS / 3 do
  local job, events, stream = unpack(KEYS, 3 * i - 2, 3 * i)
  local entry, delivery, progress, event = unpack(ARGV, 4 * i, 4 * i + 3)
  local pending = redis.pcall('XPENDING', stream, ARGV[2], entry, entry, 1)
  local found = not pending.err and pending[1]
  local is_owned = found and found[2] == ARGV[3] and found[4] == tonumber(delivery)
  local is_open = is_owned and redis.call('HGET', job, 'finished_at') == 'null'
  if is_open then
    redis.call('HSET', job, 'progress', progress)
    redis.call('XADD', events, 'MAXLEN', ARGV[1], '*', 'event', event)
  elseif is_owned then
    redis.call('XACK', stream, ARGV[2], entry)
    redis.call('XDEL', stream, entry)
  end
  holds[i] = is_open and 1 or 0
end
return holds
"""

# Extra KEY: checkpoint. ARGV from 8: number of tasks done, picture, versions of the plugins.
SAVE = (
    _PRELUDE
    + """
if not may_act() then return 0 end
redis.call('HSET', KEYS[5], 'num_tasks', ARGV[8], 'picture', ARGV[9],
  'versions', ARGV[10])
redis.call('EXPIRE', KEYS[5], ARGV[1])
return 1
"""
)

# JUSTID resets the idle time and leaves the number of deliveries alone.
RENEW = (
    _PRELUDE
    + """
if not may_act() then return 0 end
redis.call('XCLAIM', KEYS[4], ARGV[4], ARGV[5], 0, ARGV[6], 'JUSTID')
keep_alive()
return 1
"""
)

# ARGV from 8: idle time in ms, deliveries so far, fields. The entry keeps its place; whoever claims
# next takes it once its idle time has grown to a lease.
RELEASE = (
    _PRELUDE
    + """
if not may_act() then return 0 end
write(10)
redis.call('XCLAIM', KEYS[4], ARGV[4], 'released', 0, ARGV[6],
  'IDLE', ARGV[8], 'RETRYCOUNT', ARGV[9], 'JUSTID')
return 1
"""
)

# Extra KEYS: result blob, recent finish times, dead letters, checkpoint, load. A dead letter keeps
# its job and its input as long as itself.
# ARGV from 8: result ('' for none), dead letter ('' for none), TTL of dead letters, fields.
FINISH = (
    _PRELUDE
    + """
if not may_act() then return 0 end
write(11)
drop_entry()
redis.call('DEL', KEYS[8])
drop_load(KEYS[9])
if ARGV[8] ~= '' then redis.call('SET', KEYS[5], ARGV[8], 'EX', ARGV[1]) end
local life_s = ARGV[1]
if ARGV[9] ~= '' then
  life_s = ARGV[10]
  redis.call('XADD', KEYS[7], 'MAXLEN', 10000, '*', 'letter', ARGV[9])
  redis.call('EXPIRE', KEYS[7], life_s)
  redis.call('EXPIRE', KEYS[3], life_s)
else
  redis.call('DEL', KEYS[3])
end
redis.call('EXPIRE', KEYS[1], life_s)
redis.call('EXPIRE', KEYS[2], life_s)
redis.call('LPUSH', KEYS[6], now_ms())
redis.call('LTRIM', KEYS[6], 0, 31)
redis.call('EXPIRE', KEYS[6], 600)
tell_end()
return 1
"""
)

# End a job without a claim; its entry stays as a tombstone until a claim skips it, because
# deleting an entry that was never delivered nulls the group's lag. KEYS[4] is the checkpoint here,
# KEYS[5] the load.
# Fields from ARGV[4].
CLOSE = (
    _PRELUDE
    + """
if not is_open() then return 0 end
write(4)
redis.call('DEL', KEYS[3], KEYS[4])
drop_load(KEYS[5])
redis.call('EXPIRE', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[2], ARGV[1])
tell_end()
return 1
"""
)

# Extra KEYS: dead letters. ARGV from 4: letter, job id, fields.
# -> 1, 0 if there is no such letter, or -1 if the input is gone. The events start anew: a reader
# stops at the first end it meets.
REQUEUE = (
    _PRELUDE
    + """
if redis.call('EXISTS', KEYS[1], KEYS[3]) < 2 then return -1 end
if redis.call('XDEL', KEYS[5], ARGV[4]) == 0 then return 0 end
redis.call('DEL', KEYS[2])
write(6)
redis.call('XADD', KEYS[4], '*', 'job', ARGV[5])
keep_alive()
return 1
"""
)

# KEYS: job hash, input blob, checkpoint. -> {fields, input, {number of tasks, picture, versions}}
OPEN = """
return {redis.call('HGETALL', KEYS[1]), redis.call('GET', KEYS[2]),
  redis.call('HMGET', KEYS[3], 'num_tasks', 'picture', 'versions')}
"""

# KEYS: a stage's streams, best class first. ARGV: group, consumer, lease in ms, count.
# -> {{stream, entry, job id, delivery}, ...}
RECLAIM = """
local found = {}
for _, stream in ipairs(KEYS) do
  local cursor = '0-0'
  while #found < tonumber(ARGV[4]) do
    local reply = redis.call('XAUTOCLAIM', stream, ARGV[1], ARGV[2], ARGV[3], cursor,
      'COUNT', ARGV[4] - #found)
    cursor = reply[1]
    for _, entry in ipairs(reply[2]) do
      local pending = redis.call('XPENDING', stream, ARGV[1], entry[1], entry[1], 1)
      found[#found + 1] = {stream, entry[1], entry[2][2], pending[1][4]}
    end
    if cursor == '0-0' then break end
  end
end
return found
"""

# KEYS: a stage's streams, best class first. ARGV: group, consumer, count, ageing in ms.
# The entry that is next has the least arrival time plus `ageing` per class below the best, so a
# job waits at most that much longer than a better one that came later.
# -> {{stream, entry, job id}, ...}, and the streams' last ids
READ = """
local function to_map(list)
  local map = {}
  for i = 1, #list, 2 do map[list[i]] = list[i + 1] end
  return map
end
local function arrival_of_next(stream)
  for _, group in ipairs(redis.pcall('XINFO', 'GROUPS', stream)) do
    local fields = to_map(group)
    if fields.name == ARGV[1] then
      local after = '(' .. fields['last-delivered-id']
      local entry = redis.call('XRANGE', stream, after, '+', 'COUNT', 1)[1]
      return entry and tonumber(entry[1]:match('^%d+')) or math.huge
    end
  end
end
local found = {}
while #found < tonumber(ARGV[3]) do
  local best, least = nil, math.huge
  for class, stream in ipairs(KEYS) do
    local arrival = arrival_of_next(stream)
    if not arrival then return redis.error_reply('NOGROUP of ' .. stream) end
    local rank = arrival + (class - 1) * ARGV[4]
    if rank < least then best, least = stream, rank end
  end
  if not best then break end
  local reply = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', 1,
    'STREAMS', best, '>')
  local entry = reply[1][2][1]
  found[#found + 1] = {best, entry[1], entry[2][2]}
end
local last = {}
for i, stream in ipairs(KEYS) do
  last[i] = to_map(redis.call('XINFO', 'STREAM', stream))['last-generated-id']
end
return {found, last}
"""

# KEYS: streams. ARGV: group, consumer. A consumer with pending entries stays: deleting it would
# delete its claims.
FORGET_CONSUMER = """
for _, stream in ipairs(KEYS) do
  local pending = redis.pcall('XPENDING', stream, ARGV[1], '-', '+', 1, ARGV[2])
  if not pending.err and not pending[1] then
    redis.pcall('XGROUP', 'DELCONSUMER', stream, ARGV[1], ARGV[2])
  end
end
"""

# KEYS: a stage's streams. ARGV: group. -> {{waiting, claimed, wait of the next in ms}, ...}
DEPTH = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local depths = {}
for i, stream in ipairs(KEYS) do
  local claimed, after = 0, '-'
  for _, group in ipairs(redis.pcall('XINFO', 'GROUPS', stream)) do
    local fields = {}
    for j = 1, #group, 2 do fields[group[j]] = group[j + 1] end
    if fields.name == ARGV[1] then
      claimed, after = fields.pending, '(' .. fields['last-delivered-id']
    end
  end
  local entry = redis.call('XRANGE', stream, after, '+', 'COUNT', 1)[1]
  local wait = entry and math.max(0, now - entry[1]:match('^%d+')) or 0
  depths[i] = {math.max(0, redis.call('XLEN', stream) - claimed), claimed, wait}
end
return depths
"""
