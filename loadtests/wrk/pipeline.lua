-- DEPTH requests (8) under way on each connection: wrk -t1 -c16 -d10s --latency -s pipeline.lua http://127.0.0.1:9080/
local batch

init = function()
  local one = wrk.format("GET", nil)
  batch = string.rep(one, tonumber(os.getenv("DEPTH") or 8))
end

request = function()
  return batch
end
