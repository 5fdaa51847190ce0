-- A connection per request: wrk -t1 -c64 -d10s --latency -s close.lua http://127.0.0.1:9080/
wrk.headers["Connection"] = "close"
