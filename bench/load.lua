-- For wrk: prints the outcome as one line of JSON. With PLAN in the environment, each request is an order of its own (a
-- file with a line `run ID`, lines `caller HEADER VALUE` and lines `product ID`) or the next of its lines `body JSON`.
local run, callers, products, bodies = "", {}, {}, {}
local sent = 0

if os.getenv("PLAN") then
  for line in io.lines(os.getenv("PLAN")) do
    local kind, name, value = line:match("^(%w+) (%S+) ?(.*)$")
    if kind == "run" then
      run = name
    elseif kind == "caller" then
      callers[#callers + 1] = { name, value }
    elseif kind == "product" then
      products[#products + 1] = name
    elseif kind == "body" then
      bodies[#bodies + 1] = line:sub(6)
    end
  end

  function request()
    sent = sent + 1
    if #bodies > 0 then
      return wrk.format("POST", nil, { ["Content-Type"] = "application/json" }, bodies[sent % #bodies + 1])
    end
    local caller = callers[sent % #callers + 1]
    local first = math.random(#products)
    local second = (first + math.random(#products - 1) - 1) % #products + 1
    local headers = {
      ["Content-Type"] = "application/json",
      ["Idempotency-Key"] = run .. "-" .. sent,
      [caller[1]] = caller[2],
    }
    local body = '{"items":[{"productId":"' .. products[first] .. '","quantity":1},{"productId":"'
      .. products[second] .. '","quantity":2}]}'
    return wrk.format("POST", nil, headers, body)
  end
end

function done(summary, latency)
  local errors = summary.errors
  print(string.format(
    '{"requests":%d,"seconds":%.6f,"p50":%.4f,"p99":%.4f,"refused":%d,"broken":%d}',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1000, latency:percentile(99) / 1000,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
