-- Counts answers that are not what they should be (status, length) and says so at the end; LENGTH is the expected body (13).
-- LENGTH=13 wrk -t1 -c64 -d10s --latency -s check.lua http://127.0.0.1:9080/
local length = tonumber(os.getenv("LENGTH") or 13)
local threads = {}
wrong = 0

setup = function(thread)
  table.insert(threads, thread)
end

response = function(status, headers, body)
  if status ~= 200 or #body ~= length then
    wrong = wrong + 1
  end
end

done = function(summary, latency, requests)
  local all = 0
  for _, thread in ipairs(threads) do
    all = all + thread:get("wrong")
  end
  local e = summary.errors
  io.write(string.format("wrong answers: %d; errors: connect %d read %d write %d timeout %d\n", all, e.connect, e.read, e.write, e.timeout))
end
