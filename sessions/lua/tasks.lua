-- Tasks of one tenant. ARGV[1] is what to do, the rest pairs of a parameter's name and value; a parameter that is left
-- out is None, lists are JSON. KEYS[1] is holdfast:{<tenant>}, so that one slot holds all keys, each below :tasks
--   :task:<id>             hash: the columns of the table; one that is missing is NULL
--   :ready:<kind>,<owner>  sorted set, all of score 0, so in the order of bytes: priority from the highest, created, id
--   :wake, :finished       sorted sets: id by the microsecond a lease ends or a task is due, and by the one it ended
--   :newest, :kind:<kind>, :children:<id>  sorted sets: id by the microsecond it was created
--   :open:<owner>          set: ids of what an owner has that is not finished
--   :counts                hash: tasks by status, whether shared, kind and owner
-- What a statement of PostgreSQL's does in one row's lock, a call does here alone. The clock is the server's.
local root = KEYS[1] .. ':tasks'
local command = ARGV[1]
local v = {}
for place = 2, #ARGV, 2 do v[ARGV[place]] = ARGV[place + 1] end
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]

local FIELDS = {'id', 'kind', 'key', 'parent_id', 'owner', 'shared', 'status', 'priority', 'level', 'attempts',
    'max_attempts', 'token', 'lease_micros', 'wake_at', 'payload', 'result', 'error', 'metadata', 'created_at',
    'updated_at', 'finished_at'}
local LAPSED = 'the lease ran out'

local function text(number) return string.format('%.0f', number) end
local function list(name) return v[name] and cjson.decode(v[name]) end
local function pair(first, second) return #first .. ':' .. first .. second end
local function ready_key(kind, owner) return root .. ':ready:' .. pair(kind, owner) end
local function has(names, name)
    for _, each in ipairs(names) do if each == name then return true end end
    return false
end

-- Lua's own < goes by the server's locale.
local function is_before(first, second)
    for place = 1, math.min(#first, #second) do
        local a, b = string.byte(first, place), string.byte(second, place)
        if a ~= b then return a < b end
    end
    return #first < #second
end

local function load(id)
    local flat = redis.call('HGETALL', root .. ':task:' .. id)
    if #flat == 0 then return nil end
    local task, before = {}, {}
    for place = 1, #flat, 2 do task[flat[place]], before[flat[place]] = flat[place + 1], flat[place + 1] end
    task.before = before
    return task
end

local function place_of(task)
    return string.format('%010.0f%017.0f', 2147483647 - task.priority, task.created_at) .. task.id
end

local function mark(task, on)
    local add, take = on and 'ZADD' or nil, 'ZREM'
    local function keep(name, score, member)
        if on then redis.call(add, name, score, member) else redis.call(take, name, member) end
    end
    if task.status == 'pending' then keep(ready_key(task.kind, task.owner), 0, place_of(task)) end
    if task.wake_at then keep(root .. ':wake', task.wake_at, task.id) end
    if task.finished_at then keep(root .. ':finished', task.finished_at, task.id)
    elseif task.owner ~= '' then redis.call(on and 'SADD' or 'SREM', root .. ':open:' .. task.owner, task.id) end
    local count = table.concat({task.status, task.shared, pair(task.kind, task.owner)}, ' ')
    if redis.call('HINCRBY', root .. ':counts', count, on and 1 or -1) == 0 then
        redis.call('HDEL', root .. ':counts', count)
    end
end

local function save(task)
    local name, before, given = root .. ':task:' .. task.id, task.before, {}
    if before then mark(before, false) end
    for _, field in ipairs(FIELDS) do
        if task[field] then given[#given + 1] = field; given[#given + 1] = task[field]
        elseif before and before[field] then redis.call('HDEL', name, field) end
    end
    redis.call('HSET', name, unpack(given))
    mark(task, true)
    if not before then
        redis.call('ZADD', root .. ':newest', task.created_at, task.id)
        redis.call('ZADD', root .. ':kind:' .. task.kind, task.created_at, task.id)
        if task.parent_id then redis.call('ZADD', root .. ':children:' .. task.parent_id, task.created_at, task.id) end
    end
    task.before = nil
    return task
end

local function remove(task)
    mark(task.before, false)
    redis.call('DEL', root .. ':task:' .. task.id)
    redis.call('ZREM', root .. ':newest', task.id)
    redis.call('ZREM', root .. ':kind:' .. task.kind, task.id)
    if task.parent_id then redis.call('ZREM', root .. ':children:' .. task.parent_id, task.id) end
end

local function row(task)
    local found = {}
    for _, field in ipairs(FIELDS) do
        if task[field] then found[#found + 1] = field; found[#found + 1] = task[field] end
    end
    return found
end

local function is_seen(task)
    if not v.view then return true end
    if v.view == '' then return task.shared == '1' end
    return task.owner == v.view
end

local function seen(id)
    local task = load(id)
    return task and is_seen(task) and task or nil
end

local function is_spent(task) return tonumber(task.attempts) >= tonumber(task.max_attempts) end
local function is_over(task) return tonumber(task.wake_at) <= now end
local function children(id) return redis.call('ZRANGE', root .. ':children:' .. id, 0, -1) end

local function change(task, status)
    task.status, task.wake_at, task.updated_at = status, nil, text(now)
    if status ~= 'pending' and status ~= 'active' and status ~= 'deferred' then task.finished_at = text(now) end
end

local function raise(task, field, by) task[field] = text(task[field] + by) end

-- Until when a deferred task that was handed to an owner waits for this one alone.
local function reserved_until(task)
    local is_handed = task.status == 'deferred' and task.shared == '1' and task.owner ~= '' and task.lease_micros
    return is_handed and task.wake_at + task.lease_micros or 0
end

-- What the clock has freed becomes claimable, or dead after its last attempt; what is shared goes back to anybody.
local function wake(limit)
    local ids = redis.call('ZRANGEBYSCORE', root .. ':wake', '-inf', text(now), 'LIMIT', 0, limit)
    for _, id in ipairs(ids) do
        local task = load(id)
        local reserved = reserved_until(task)
        if task.status == 'active' then task.error = LAPSED end
        if task.status == 'active' and is_spent(task) then change(task, 'dead')
        else
            change(task, 'pending')
            if reserved > now then task.wake_at = text(reserved)
            elseif task.shared == '1' then task.owner = '' end
        end
        raise(task, 'token', 1)
        save(task)
    end
    return #ids
end

local function take(task)
    change(task, 'active')
    task.owner, task.lease_micros, task.wake_at = v.owner, v.lease, text(now + v.lease)
    raise(task, 'attempts', 1)
    task.token = text(math.max(task.token + 1, now))  -- more than any of a task that was deleted and had this id
    return save(task)
end

local function held()
    local task = seen(v.id)
    if task and task.token == v.token and task.status == 'active' and not is_over(task) then return task end
end

local function later() return v.delay and text(now + v.delay) or v['until'] end

local function family()
    local ids, met, next = {v.id}, {[v.id] = true}, 1
    while v.with_children == '1' and ids[next] do
        for _, id in ipairs(children(ids[next])) do
            if not met[id] then ids[#ids + 1], met[id] = id, true end
        end
        next = next + 1
    end
    return ids
end

-- Calls visit(task) from the newest on until it says true.
local function walk(name, visit)
    local most, skip = v.after_time or '+inf', 0
    local least = v.within and '(' .. text(now - v.within) or '-inf'
    while true do
        local ids = redis.call('ZREVRANGEBYSCORE', name, most, least, 'LIMIT', skip, 200)
        for _, id in ipairs(ids) do
            local task = load(id)
            local is_after = not v.after_time or tonumber(task.created_at) < tonumber(v.after_time)
                or is_before(id, v.after_id)
            if is_after and visit(task) then return end
        end
        if #ids < 200 then return end
        skip = skip + 200
    end
end

local function holds(task, where)
    local found = cjson.decode(task.metadata)
    for key, value in pairs(where) do
        if found[key] == nil or type(found[key]) ~= type(value) or found[key] ~= value then return false end
    end
    return true
end

local run = {}

function run.task_add()
    local rows, new, answer, hidden = list('rows'), {}, {}, false
    for _, given in ipairs(rows) do new[given.id] = true end
    for _, given in ipairs(rows) do
        local there = load(given.id)
        if not there and given.parent_id and not new[given.parent_id]
            and redis.call('EXISTS', root .. ':task:' .. given.parent_id) == 0 then return 'no parent' end
        hidden = hidden or there and not is_seen(there)
    end
    if hidden then return {} end
    for _, given in ipairs(rows) do
        if redis.call('EXISTS', root .. ':task:' .. given.id) == 0 then
            local moment, wakes = text(now + given.place), given.wake_at and given.wake_at > now
            answer[#answer + 1] = row(save({
                id = given.id, kind = given.kind, key = given.key, parent_id = given.parent_id, owner = v.owner,
                shared = v.owner == '' and '1' or '0', status = wakes and 'deferred' or 'pending',
                priority = text(given.priority), level = text(given.level), attempts = '0',
                max_attempts = text(given.max_attempts), token = '0', wake_at = wakes and text(given.wake_at) or nil,
                payload = given.payload, metadata = given.metadata, created_at = moment, updated_at = moment,
            }))
        end
    end
    return answer
end

function run.task_get()
    local task = seen(v.id)
    return task and {row(task)} or {}
end

function run.list_tasks_by_id()
    local found = {}
    for _, id in ipairs(list('ids')) do
        local task = seen(id)
        if task then found[#found + 1] = row(task) end
    end
    return found
end

function run.list_tasks()
    local found, kinds, statuses, where = {}, list('kinds'), list('statuses'), list('where')
    local name = root .. ':newest'
    if v.parent then name = root .. ':children:' .. v.parent
    elseif kinds and #kinds == 1 then name = root .. ':kind:' .. kinds[1] end
    walk(name, function(task)
        if is_seen(task) and (not kinds or has(kinds, task.kind)) and (not statuses or has(statuses, task.status))
            and tonumber(task.level) >= tonumber(v.level) and (not where or holds(task, where)) then
            found[#found + 1] = row(task)
        end
        return #found == tonumber(v.limit)
    end)
    return found
end

function run.task_latest()
    local found = {}
    walk(root .. ':kind:' .. v.kind, function(task)
        if is_seen(task) and (not v.status or task.status == v.status) then found[1] = row(task) end
        return found[1]
    end)
    return found
end

function run.task_counts()
    local kinds, sums, answer = list('kinds'), {}, {}
    local function count(status, shared, kind, owner, number)
        if is_seen({shared = shared, owner = owner}) and (not kinds or has(kinds, kind)) then
            sums[status] = (sums[status] or 0) + number
        end
    end
    if v.within then
        walk(root .. ':newest', function(task) count(task.status, task.shared, task.kind, task.owner, 1) end)
    else
        local flat = redis.call('HGETALL', root .. ':counts')
        for place = 1, #flat, 2 do
            local status, shared, size, rest = string.match(flat[place], '^(%a+) (%d) (%d+):(.*)$')
            count(status, shared, string.sub(rest, 1, size), string.sub(rest, size + 1), tonumber(flat[place + 1]))
        end
    end
    for status, number in pairs(sums) do answer[#answer + 1] = {'status', status, 'tasks', text(number)} end
    return answer
end

function run.task_claim()
    local task = load(v.id)
    if not task then
        return {row(save({
            id = v.id, kind = v.kind, key = v.key, owner = v.owner, shared = '1', status = 'active',
            priority = v.priority, level = '0', attempts = '1', max_attempts = v.max_attempts, token = text(now),
            lease_micros = v.lease, wake_at = text(now + v.lease), payload = v.payload, metadata = v.metadata,
            created_at = text(now), updated_at = text(now),
        }))}
    end
    local is_mine = task.owner == '' or task.owner == v.owner
    if task.status == 'active' and is_over(task) and (task.shared == '1' or is_mine) then
        task.error = LAPSED
        if is_spent(task) then
            change(task, 'dead')
            raise(task, 'token', 1)
            return {row(save(task))}
        end
        return {row(take(task))}
    end
    local is_free = task.status == 'pending' or task.status == 'deferred' and is_over(task)
    local is_left = task.wake_at and is_over(task) and task.shared == '1' and reserved_until(task) <= now
    if is_free and (is_mine or is_left) then return {row(take(task))} end
    return {}
end

function run.task_claim_next()
    wake(100)
    local front, found = {}, {}
    for _, kind in ipairs(list('kinds')) do
        for _, owner in ipairs(list('owners')) do
            for _, place in ipairs(redis.call('ZRANGE', ready_key(kind, owner), 0, v.limit - 1)) do
                front[#front + 1] = place
            end
        end
    end
    table.sort(front, is_before)
    for place = 1, math.min(#front, v.limit) do
        found[place] = row(take(load(string.sub(front[place], 28))))
    end
    return found
end

run.task_claim_some = run.task_claim_next

function run.task_release_expired() return {{'value', text(wake(v.limit))}} end

function run.task_renew()
    local task = held()
    if not task then return {} end
    task.lease_micros, task.updated_at = v.lease or task.lease_micros, text(now)
    task.wake_at = text(now + task.lease_micros)
    return {row(save(task))}
end

function run.task_settle()
    local task = held()
    if not task then return {} end
    change(task, v.status)
    task.result, task.error, task.wake_at = v.result, v.error or task.error, later()
    raise(task, 'attempts', -v.refund)
    if task.shared == '1' and not task.finished_at then task.owner = '' end
    return {row(save(task))}
end

function run.task_complete_many()
    local answer = {}
    for _, given in ipairs(list('rows')) do
        v.id, v.token = given.id, text(given.token)
        local task = held()
        if task then
            change(task, 'completed')
            task.result = given.result
            answer[#answer + 1] = row(save(task))
        end
    end
    return answer
end

function run.task_fail()
    local task = held()
    if not task then return {} end
    if is_spent(task) then change(task, 'dead')
    else
        change(task, 'deferred')
        task.wake_at = later()
        if task.shared == '1' then task.owner = '' end
    end
    task.error = v.error
    return {row(save(task))}
end

function run.task_defer()
    local task = seen(v.id)
    if not task or task.status ~= 'pending' and task.status ~= 'deferred' then return {} end
    change(task, 'deferred')
    task.wake_at = later()
    return {row(save(task))}
end

function run.task_escalate()
    local task = seen(v.id)
    if not task or task.finished_at or tonumber(task.level) == 2147483647 then return {} end
    raise(task, 'level', 1)
    task.updated_at = text(now)
    return {row(save(task))}
end

function run.task_retry()
    local task = seen(v.id)
    if not task or not task.finished_at or task.status == 'completed' then return {} end
    change(task, 'pending')
    task.attempts, task.result, task.finished_at = '0', nil, nil
    raise(task, 'token', 1)
    if task.shared == '1' then task.owner = '' end
    return {row(save(task))}
end

function run.task_cancel()
    local task, answer = seen(v.id), {}
    if not task or task.finished_at then return {} end
    for _, id in ipairs(family()) do
        task = load(id)
        if not task.finished_at then
            change(task, 'cancelled')
            task.error = v.error or task.error
            raise(task, 'token', 1)
            answer[#answer + 1] = row(save(task))
        end
    end
    return answer
end

local function hand(task, owner)
    if task.status == 'active' then
        change(task, 'pending')
        raise(task, 'attempts', -1)
    end
    task.owner, task.updated_at = owner, text(now)
    if task.status == 'pending' then task.wake_at = nil end
    if owner == '' then task.shared = '1'
    elseif task.shared == '1' then
        task.lease_micros = v.lease
        if task.status == 'pending' then task.wake_at = text(now + v.lease) end
    end
    raise(task, 'token', 1)
    return save(task)
end

function run.task_transfer()
    local task, answer = load(v.id), {}
    if not task or task.owner ~= v.from_owner or task.finished_at then return {} end
    for _, id in ipairs(family()) do
        task = load(id)
        if task.owner == v.from_owner and not task.finished_at then answer[#answer + 1] = row(hand(task, v.to_owner)) end
    end
    return answer
end

function run.task_hand_over()
    local number = 0
    for _, id in ipairs(redis.call('SMEMBERS', root .. ':open:' .. v.owner)) do
        local task = load(id)
        if number < tonumber(v.limit) and (v.to_owner or task.status == 'active' or task.shared == '1') then
            hand(task, v.to_owner or task.shared == '1' and '' or task.owner)
            number = number + 1
        end
    end
    return {{'value', text(number)}}
end

function run.task_delete_finished()
    local statuses, number, skip, limit = list('statuses'), 0, 0, tonumber(v.limit)
    while number < limit do
        local ids = redis.call('ZRANGEBYSCORE', root .. ':finished', '-inf', text(now - v.older_than), 'LIMIT', skip, limit)
        for _, id in ipairs(ids) do
            local task = load(id)
            if number < limit and (not statuses or has(statuses, task.status)) and #children(id) == 0 then
                remove(task)
                number = number + 1
            else skip = skip + 1 end
        end
        if #ids < limit then break end
    end
    return {{'value', text(number)}}
end

function run.task_delete()
    local task = seen(v.id)
    if not task or not task.finished_at or #children(v.id) > 0 then return {{'value', '0'}} end
    remove(task)
    return {{'value', '1'}}
end

return run[command]()
