#!/usr/bin/env python3
"""CPU per request of gateways side by side, with everything kept running: each has its load, and the loads are stopped and continued
(SIGSTOP, SIGCONT) by turns, in an order drawn anew, for a fraction of a second each. On a host whose speed drifts from second to second
that tells two builds apart by two per cent in two minutes, where starting them afresh for each round (`compare`) takes an hour.

    bench-harness/steady.py -c 256 -s 120 before=/tmp/ringway.before now=target/release/ringway nginx=nginx

Ratios are geometric means of same-round ratios to the first one, with the standard error of the mean. The gateways share CPU 0, their loads
and the backend CPU 1. Only what runs beside a stopped load's gateway (its timers) is counted for nobody.
"""
import argparse
import glob
import math
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

RINGWAY = """gateway:
  workers: {{count: 1, cpus: "0", driver: {driver}}}
  listeners: [{{address: "127.0.0.1:{port}"}}]
  control: {{address: "127.0.0.1:{control}"}}
  access_log: {{path: {dir}/{name}.log, format: combined}}
  keepalive: {{requests: 1000000000}}
upstreams:
  - {{id: bench, type: roundrobin, keepalive_pool: {{size: 512, requests: 1000000000}}, nodes: {{"127.0.0.1:{backend}": 1}}}}
routes:
  - {{id: bench, uri: /*, upstream_id: bench}}
"""
NGINX = """worker_processes 1; daemon off; error_log /dev/null; pid {dir}/nginx.pid; worker_rlimit_nofile 65536;
events {{ worker_connections 16384; }}
http {{
  access_log {dir}/nginx.log combined buffer=64k flush=1s; keepalive_requests 1000000000;
  upstream bench {{ server 127.0.0.1:{backend}; keepalive 512; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port};
    location = /status {{ access_log off; stub_status; }}
    location / {{
      proxy_pass http://bench; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
      proxy_set_header X-Real-IP $remote_addr; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Host $host;
      proxy_set_header X-Forwarded-Port $server_port;
    }}
  }}
}}
"""


class Peer:
    def __init__(self, name, program, args, scratch, backend):
        self.nginx = os.path.basename(program).startswith("nginx")
        self.port, self.control = free_port(), free_port()
        config = os.path.join(scratch, name + ".conf")
        fill = {"dir": scratch, "name": name, "port": self.port, "control": self.control, "backend": backend, "driver": args.driver}
        with open(config, "w") as file:
            file.write((NGINX if self.nginx else RINGWAY).format(**fill))
        command = [program, "-c", config] if self.nginx else [program, "run", "-c", config]
        self.process = start(["taskset", "-c", "0", *command])
        wait_for(self.requests)
        self.load = start([args.harness, "load", f"127.0.0.1:{self.port}", "-c", str(args.connections), "-d", "1000000", "--cpu", "1"])
        time.sleep(0.5)
        self.load.send_signal(signal.SIGSTOP)

    def requests(self):
        if self.nginx:
            return int(page(self.port, "/status").split("\n")[2].split()[2])
        return int(re.search(r"^ringway_requests_total\{[^}]*\} (\d+)", page(self.control, "/metrics"), re.M).group(1))

    def cpu_us(self):
        total, todo = 0, [self.process.pid]
        while todo:
            pid = todo.pop()
            for task in glob.glob(f"/proc/{pid}/task/*"):
                total += int(open(task + "/schedstat").read().split()[0])
                todo += map(int, open(task + "/children").read().split())
        return total / 1000

    def measure(self, seconds):
        self.load.send_signal(signal.SIGCONT)
        time.sleep(0.04)  # what was under way when it was stopped
        requests, cpu = self.requests(), self.cpu_us()
        time.sleep(seconds)
        cpu, requests = self.cpu_us() - cpu, self.requests() - requests
        self.load.send_signal(signal.SIGSTOP)
        time.sleep(0.02)
        return cpu / max(requests, 1)


STARTED = []


def start(command):
    STARTED.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    return STARTED[-1]


def free_port():
    import socket
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def page(port, path):
    return urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5).read().decode()


def wait_for(what):
    deadline = time.monotonic() + 10
    while True:
        try:
            return what()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--connections", type=int, default=64)
    parser.add_argument("-s", "--seconds", type=float, default=60, help="altogether")
    parser.add_argument("--slice", type=float, default=0.3, help="seconds of one measurement")
    parser.add_argument("--driver", default="io_uring")
    parser.add_argument("--harness", default="target/release/bench-harness")
    parser.add_argument("peers", nargs="+", metavar="NAME=PROGRAM")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as scratch:
        try:
            backend = free_port()
            start(["taskset", "-c", "1", args.harness, "backend", "--listen", f"127.0.0.1:{backend}"])
            named = [peer.split("=", 1) for peer in args.peers]
            peers = {name: Peer(name, program, args, scratch, backend) for name, program in named}
            rounds, until = [], time.monotonic() + args.seconds
            while time.monotonic() < until or len(rounds) < 2:
                order = random.sample(list(peers), len(peers))
                measured = {name: peers[name].measure(args.slice) for name in order}
                rounds.append(measured)
            report(rounds, args)
        finally:
            for process in reversed(STARTED):
                process.send_signal(signal.SIGCONT)
                process.terminate()  # nginx has a worker to end
            for process in STARTED:
                process.wait()


def report(rounds, args):
    first = next(iter(args.peers)).split("=")[0]
    print(f"{args.connections} connections, {len(rounds)} rounds of {args.slice} s, {args.driver}")
    for peer in args.peers:
        name = peer.split("=")[0]
        figures = [measured[name] for measured in rounds]
        logs = [math.log(measured[name] / measured[first]) for measured in rounds]
        mean = math.exp(statistics.fmean(logs))
        error = mean * statistics.stdev(logs) / math.sqrt(len(logs))
        ratios = statistics.median(map(math.exp, logs))
        print(f"{name:>12}  {statistics.median(figures):6.2f} µs/request  to {first}: {mean:.3f} ± {error:.3f} (median {ratios:.3f})")


if __name__ == "__main__":
    sys.exit(main())
