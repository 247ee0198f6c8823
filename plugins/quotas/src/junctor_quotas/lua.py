"""The atomic steps as Redis runs them. `memory.py` has the same as Python; the contract tests compare.

A **counter** is a hash: `t` what was used within the window, `r` what running requests hold, `o` the oldest part, and
one field a part of the window. **Records** holds, by lease, what it holds of which counter; **leases** is a sorted set
of their expiry. Keys: leases, records, epoch, overrides, then the counters. All share one hash tag; a dead lease's
counters are found through its record, and share it as well.
"""

from __future__ import annotations

__all__ = ["ADJUST", "INDEX", "LIST", "READ", "RENEW", "RESERVE", "RESTORE", "SETTLE"]

_HEAD = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local function text(x) return string.format('%.0f', x) end
local function number(x) return tonumber(x or '0') end

local function roll(key, width, count)
  local v = redis.call('HMGET', key, 't', 'o', 'r')
  local total, oldest, held = number(v[1]), tonumber(v[2] or nil), number(v[3])
  if count == 0 or not oldest then return total, held, oldest end
  local keep = math.floor(now / width) - count
  if oldest >= keep then return total, held, oldest end
  local fields, gone = {}, {}
  for part = oldest, math.min(keep - 1, oldest + count) do fields[#fields + 1] = text(part) end
  local values = redis.call('HMGET', key, unpack(fields))
  for i, value in ipairs(fields) do
    if values[i] then total = total - tonumber(values[i]); gone[#gone + 1] = value end
  end
  if #gone > 0 then redis.call('HDEL', key, unpack(gone)) end
  redis.call('HSET', key, 't', text(total), 'o', text(keep))
  return total, held, keep
end

local function add(key, amount, width, oldest)
  local part = text(math.floor(now / width))
  redis.call('HINCRBY', key, 't', text(amount))
  redis.call('HINCRBY', key, part, text(amount))
  if not oldest then redis.call('HSET', key, 'o', part) end
end

local function release(key, amount)
  local held = number(redis.call('HGET', key, 'r'))
  if held > 0 and amount > 0 then redis.call('HINCRBY', key, 'r', text(-math.min(held, amount))) end
end

local function reap()
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', text(now), 'LIMIT', 0, 50)) do
    local packed = redis.call('HGET', KEYS[2], id)
    if packed then
      local record = cmsgpack.unpack(packed)
      for i = 1, #record, 4 do
        if record[i + 1] > 0 then release(record[i], record[i + 2]) end
      end
      redis.call('HDEL', KEYS[2], id)
    end
    redis.call('ZREM', KEYS[1], id)
  end
end
"""

_EPOCH = """
local epoch = redis.call('GET', KEYS[3])
if not epoch then
  epoch = ARGV[2]
  redis.call('SET', KEYS[3], epoch, 'PX', 3456000000)
end
if ARGV[1] ~= '' and ARGV[1] ~= epoch then return {3, now, epoch} end
"""

# expected epoch, new epoch, lease, its ms, force; then 10 a counter:
# kind, charge, more, hard, width, count, from, until, ttl, override's name
RESERVE = (
    _HEAD
    + _EPOCH
    + """
local id, force = ARGV[3], ARGV[5] == '1'
local size = #KEYS - 4
local names = {}
for i = 1, size do
  local a = 5 + (i - 1) * 10
  local from, till = tonumber(ARGV[a + 7]), tonumber(ARGV[a + 8])
  if till > 0 and (now >= till or now < from) and not force then return {2, now, epoch} end
  names[i] = ARGV[a + 10]
end
reap()
local overrides = redis.call('HMGET', KEYS[4], unpack(names))
local packed = redis.call('HGET', KEYS[2], id)
local record = packed and cmsgpack.unpack(packed) or nil
if force and record then return {1, now, epoch} end
local answer, state, refused, wait = {1, now, epoch}, {}, 0, 0
for i = 1, size do
  local a, key = 5 + (i - 1) * 10, KEYS[i + 4]
  local more, hard = tonumber(ARGV[a + 3]), tonumber(overrides[i] or ARGV[a + 4])
  local width, count = tonumber(ARGV[a + 5]), tonumber(ARGV[a + 6])
  local total, held, oldest = roll(key, width, count)
  state[i] = {total, held, oldest, hard}
  local need = total + held + more - hard
  if not force and more > 0 and need > 0 then
    local pause = -2
    if more > hard then
      pause = -1
    elseif ARGV[a + 1] == '2' then
      pause = -2
    elseif count == 0 then
      if total > 0 then pause = tonumber(ARGV[a + 8]) - now end
    elseif oldest then
      local part = math.floor(now / width)
      local freed = 0
      for p = oldest, part do
        freed = freed + number(redis.call('HGET', key, text(p)))
        if freed >= need then pause = (p + count + 1) * width - now break end
      end
    end
    if refused == 0 or pause == -1 or (wait ~= -1 and pause > wait) then refused, wait = i, pause end
  end
end
if refused > 0 then
  answer = {0, now, epoch, refused, wait}
  for i = 1, size do
    for j = 1, 4 do if j ~= 3 then answer[#answer + 1] = state[i][j] end end
  end
  return answer
end
local fresh = {}
for i = 1, size do
  local a, key, s = 5 + (i - 1) * 10, KEYS[i + 4], state[i]
  local kind, charge, more = tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3])
  local width = tonumber(ARGV[a + 5])
  local amount = record and record[(i - 1) * 4 + 3] or 0
  if kind == 0 then
    if more > 0 and not force then add(key, more, width, s[3]); s[1] = s[1] + more end
  else
    if charge > 0 then add(key, charge, width, s[3]); s[1] = s[1] + charge end
    local change = more - math.min(charge, amount)
    if change < -s[2] then change = -s[2] end
    if change ~= 0 then redis.call('HINCRBY', key, 'r', text(change)) end
    s[2] = s[2] + change
    more = change
  end
  if charge ~= 0 or more ~= 0 then redis.call('PEXPIRE', key, ARGV[a + 9]) end
  local f = (i - 1) * 4
  fresh[f + 1], fresh[f + 2], fresh[f + 3] = key, kind, math.max(0, amount + more)
  fresh[f + 4] = record and record[f + 4] or math.floor(now / width)
  answer[#answer + 1] = s[1]
  answer[#answer + 1] = s[2]
  answer[#answer + 1] = s[4]
end
redis.call('HSET', KEYS[2], id, cmsgpack.pack(fresh))
redis.call('ZADD', KEYS[1], text(now + tonumber(ARGV[4])), id)
redis.call('PEXPIRE', KEYS[1], 86400000)
redis.call('PEXPIRE', KEYS[2], 86400000)
return answer
"""
)

# expected epoch, new epoch, lease; then 5 a counter: kind, final, width, count, ttl
SETTLE = (
    _HEAD
    + _EPOCH
    + """
local id = ARGV[3]
local packed = redis.call('HGET', KEYS[2], id)
local record = packed and cmsgpack.unpack(packed) or nil
if record then
  redis.call('HDEL', KEYS[2], id)
  redis.call('ZREM', KEYS[1], id)
end
-- Whose answer was lost is told again; what was settled is remembered for a minute, and not counted twice.
local told = redis.call('ZADD', KEYS[1], 'NX', text(now + 60000), 'settled:' .. id) == 0
redis.call('PEXPIRE', KEYS[1], 86400000)
local answer = {1, now, epoch}
for i = 1, #KEYS - 4 do
  local a, key = 3 + (i - 1) * 5, KEYS[i + 4]
  local kind, final = ARGV[a + 1], tonumber(ARGV[a + 2])
  local width, count = tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4])
  local total, held, oldest = roll(key, width, count)
  local amount = record and record[(i - 1) * 4 + 3] or 0
  if kind == '0' then
    local part = record and record[(i - 1) * 4 + 4] or 0
    if record and final == 0 and amount > 0 and (count == 0 or part >= math.floor(now / width) - count) then
      redis.call('HINCRBY', key, 't', text(-amount))
      redis.call('HINCRBY', key, text(part), text(-amount))
      total = total - amount
    end
  else
    release(key, amount)
    held = math.max(0, held - amount)
    if kind == '1' and final > 0 and not told then
      add(key, final, width, oldest)
      total = total + final
      redis.call('PEXPIRE', key, ARGV[a + 5])
    end
  end
  answer[#answer + 1] = total
  answer[#answer + 1] = held
end
return answer
"""
)

# ms, then leases; answers those that are not there (any more)
RENEW = (
    _HEAD
    + """
local lost = {}
for i = 2, #ARGV do
  local packed = redis.call('HGET', KEYS[2], ARGV[i])
  if packed then
    redis.call('ZADD', KEYS[1], text(now + tonumber(ARGV[1])), ARGV[i])
    local record = cmsgpack.unpack(packed)
    for j = 1, #record, 4 do
      local left = redis.call('PTTL', record[j])
      if left >= 0 and left < 2 * tonumber(ARGV[1]) then redis.call('PEXPIRE', record[j], 3 * tonumber(ARGV[1])) end
    end
  else
    lost[#lost + 1] = ARGV[i]
  end
end
return lost
"""
)

# new epoch; then 4 a counter: what was used at least, width, count, ttl
RESTORE = (
    _HEAD
    + """
if not redis.call('GET', KEYS[3]) then redis.call('SET', KEYS[3], ARGV[1], 'PX', 3456000000) end
for i = 1, #KEYS - 4 do
  local a, key = 1 + (i - 1) * 4, KEYS[i + 4]
  local total, _, oldest = roll(key, tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3]))
  local missing = tonumber(ARGV[a + 1]) - total
  if missing > 0 then
    add(key, missing, tonumber(ARGV[a + 2]), oldest)
    redis.call('PEXPIRE', key, ARGV[a + 4])
  end
end
return {1, now, redis.call('GET', KEYS[3])}
"""
)

# 2 a counter: width, count, and the override's name; answers now, then used, held, override, last part, this part
READ = (
    _HEAD
    + """
reap()
local answer = {now}
for i = 1, #KEYS - 4 do
  local a, key = (i - 1) * 3, KEYS[i + 4]
  local width, count = tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2])
  local total, held = roll(key, width, count)
  local part = math.floor(now / width)
  local parts = redis.call('HMGET', key, text(part - 1), text(part))
  local override = redis.call('HGET', KEYS[4], ARGV[a + 3])
  for _, value in ipairs({total, held, tonumber(override or '-1'), number(parts[1]), number(parts[2])}) do
    answer[#answer + 1] = value
  end
end
return answer
"""
)

# override's name, hard (-1: as it is, -2: as configured), used (-1: as it is), width, count, ttl
ADJUST = (
    _HEAD
    + """
if ARGV[2] == '-2' then
  redis.call('HDEL', KEYS[4], ARGV[1])
elseif ARGV[2] ~= '-1' then
  redis.call('HSET', KEYS[4], ARGV[1], ARGV[2])
end
if ARGV[3] ~= '-1' then
  local held = redis.call('HGET', KEYS[5], 'r')
  redis.call('DEL', KEYS[5])
  if held and tonumber(held) > 0 then redis.call('HSET', KEYS[5], 'r', held) end
  add(KEYS[5], tonumber(ARGV[3]), tonumber(ARGV[4]), nil)
  redis.call('PEXPIRE', KEYS[5], ARGV[6])
end
return 1
"""
)

# ms until forgotten, most entries; then 2 an entry: name, what is known of it
INDEX = (
    _HEAD
    + """
for i = 3, #ARGV, 2 do
  redis.call('ZADD', KEYS[1], text(now), ARGV[i])
  redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
end
local old = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', text(now - tonumber(ARGV[1])), 'LIMIT', 0, 500)
local over = redis.call('ZCARD', KEYS[1]) - #old - tonumber(ARGV[2])
if over > 0 then
  for _, name in ipairs(redis.call('ZRANGE', KEYS[1], #old, #old + math.min(over, 500) - 1)) do old[#old + 1] = name end
end
for _, name in ipairs(old) do
  redis.call('ZREM', KEYS[1], name)
  redis.call('HDEL', KEYS[2], name)
end
return #old
"""
)

# newest entries, so many
LIST = """
local answer = {}
local names = redis.call('ZREVRANGE', KEYS[1], 0, tonumber(ARGV[1]) - 1)
for _, name in ipairs(names) do
  answer[#answer + 1] = name
  answer[#answer + 1] = redis.call('HGET', KEYS[2], name) or ''
end
return answer
"""
