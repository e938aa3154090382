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
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
"""

# Extra KEYS: the other stage's stream, recent finish times.
# ARGV from 4: group, job id, image, most waiting jobs, fields.
# -> {} if admitted, else {waiting, now, newest finish, oldest finish, number of finishes}, in ms.
SUBMIT = (
    _PRELUDE
    + """
local function num_waiting(stream)
  local pending = redis.pcall('XPENDING', stream, ARGV[4])
  return redis.call('XLEN', stream) - (pending.err and 0 or pending[1])
end
-- A client that lost the answer may send the same job again.
if redis.call('EXISTS', KEYS[1]) == 1 then return {} end
local waiting = num_waiting(KEYS[4]) + num_waiting(KEYS[5])
if waiting >= tonumber(ARGV[7]) then
  local num = redis.call('LLEN', KEYS[6])
  local newest = redis.call('LINDEX', KEYS[6], 0) or '0'
  local oldest = redis.call('LINDEX', KEYS[6], -1) or '0'
  return {waiting, now_ms(), tonumber(newest), tonumber(oldest), num}
end
write(8)
redis.call('SET', KEYS[3], ARGV[6])
redis.call('XADD', KEYS[4], '*', 'job', ARGV[5])
keep_alive()
return {}
"""
)

# Fields from ARGV[9]; an extra key is the stream the job (id: ARGV[8]) moves to.
UPDATE = (
    _PRELUDE
    + """
if not may_act() then return 0 end
write(9)
keep_alive()
if KEYS[5] then
  drop_entry()
  redis.call('XADD', KEYS[5], '*', 'job', ARGV[8])
end
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

# Fields from ARGV[8]. Idle for a day: the next claim, with any lease, takes it; in its old place,
# and without counting this delivery.
RELEASE = (
    _PRELUDE
    + """
if not may_act() then return 0 end
write(8)
redis.call('XCLAIM', KEYS[4], ARGV[4], 'released', 0, ARGV[6],
  'IDLE', 86400000, 'RETRYCOUNT', ARGV[7] - 1, 'JUSTID')
return 1
"""
)

# Extra KEYS: result blob, recent finish times, dead letters.
# ARGV from 8: result ('' for none), dead letter ('' for none), TTL of dead letters, fields.
FINISH = (
    _PRELUDE
    + """
if not may_act() then return 0 end
write(11)
drop_entry()
if ARGV[8] ~= '' then redis.call('SET', KEYS[5], ARGV[8], 'EX', ARGV[1]) end
if ARGV[9] ~= '' then
  redis.call('XADD', KEYS[7], 'MAXLEN', 10000, '*', 'letter', ARGV[9])
  redis.call('EXPIRE', KEYS[7], ARGV[10])
  redis.call('EXPIRE', KEYS[3], ARGV[1])
else
  redis.call('DEL', KEYS[3])
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[2], ARGV[1])
redis.call('LPUSH', KEYS[6], now_ms())
redis.call('LTRIM', KEYS[6], 0, 31)
redis.call('EXPIRE', KEYS[6], 600)
return 1
"""
)

# End a job without a claim; its entry stays as a tombstone until a claim skips it, because
# deleting an entry that was never delivered nulls the group's lag. Fields from ARGV[4].
CLOSE = (
    _PRELUDE
    + """
if not is_open() then return 0 end
write(4)
redis.call('DEL', KEYS[3])
redis.call('EXPIRE', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[2], ARGV[1])
return 1
"""
)

# KEYS: stream. ARGV: group, consumer, lease in ms, count. -> {{entry, job id, delivery}, ...}
RECLAIM = """
local found, cursor = {}, '0-0'
repeat
  local reply = redis.call('XAUTOCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], cursor,
    'COUNT', ARGV[4] - #found)
  cursor = reply[1]
  for _, entry in ipairs(reply[2]) do
    local pending = redis.call('XPENDING', KEYS[1], ARGV[1], entry[1], entry[1], 1)
    found[#found + 1] = {entry[1], entry[2][2], pending[1][4]}
  end
until cursor == '0-0' or #found >= tonumber(ARGV[4])
return found
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
