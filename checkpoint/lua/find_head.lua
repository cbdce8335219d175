-- Stamp and counter of a namespace, false where there is none. ARGV: namespace.
local head = alive(ARGV[1])
if not head then
    return false
end
local stamp, counter = string.match(head, HEAD)
return {stamp, counter}
