-- What wrk sends, and its figures as a line of JSON. Arguments: `reads FILE`, for the paths in the file; `writes FILE`, for a POST of
-- each of its lines. Started by generators.py.

local threads = 0

function setup(thread)
  -- Each thread begins elsewhere in the list.
  thread:set("number", threads)
  threads = threads + 1
end

function init(args)
  local kind, path = args[1], args[2]
  local requests = {}
  for line in io.lines(path) do
    if kind == "reads" then
      requests[#requests + 1] = wrk.format("GET", line)
    else
      requests[#requests + 1] = wrk.format("POST", nil, {["Content-Type"] = "application/json"}, line)
    end
  end
  -- wrk calls `request` for each request; a table lookup is all that it should cost.
  local at = number * 7919 % #requests
  request = function()
    at = at % #requests + 1
    return requests[at]
  end
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "seconds": %.6f, "errors": {"connect": %d, "read": %d, "write": %d, "timeout": %d, "status": %d}, ' ..
    '"latency": {"p50": %.4f, "p90": %.4f, "p99": %.4f, "p999": %.4f, "max": %.4f}}\n',
    summary.requests, summary.duration / 1e6, e.connect, e.read, e.write, e.timeout, e.status,
    latency:percentile(50) / 1e3, latency:percentile(90) / 1e3, latency:percentile(99) / 1e3, latency:percentile(99.9) / 1e3,
    latency.max / 1e3))
end
