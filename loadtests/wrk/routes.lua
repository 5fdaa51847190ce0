-- Requests spread evenly over ROUTES routes (10,000) named /many/N/x, as the scale scenario writes them:
-- ROUTES=10000 wrk -t1 -c64 -d10s --latency -s routes.lua http://127.0.0.1:9080/
local routes = tonumber(os.getenv("ROUTES") or 10000)
local at = 0

request = function()
  at = (at + 7919) % routes -- a prime step: neighbours in time are no neighbours in the table
  return wrk.format("GET", "/many/" .. at .. "/x")
end
