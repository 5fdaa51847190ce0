-- POST of 4 KB, or of SIZE octets: SIZE=1048576 wrk -t1 -c16 -d10s --latency -s post.lua http://127.0.0.1:9080/
wrk.method = "POST"
wrk.body = string.rep("x", tonumber(os.getenv("SIZE") or 4096))
wrk.headers["Content-Type"] = "application/octet-stream"
