-- ARGV: namespace, key.
if not alive(ARGV[1]) then
    return {}
end
return writes_of(ARGV[1] .. '\0', ARGV[2])
