-- For wrk: takes the requests of a file, one a line, and says at the end what it measured, for machines.
-- Arguments: file of tokens, file of requests ("<number of its token> <method> <path> <body>"), "random" or "once",
-- the line to begin with, and the pause of each connection between two requests, in milliseconds.
local tokens, requests = {}, {}
local order, at, pause

function init(args)
  for line in io.lines(args[1]) do tokens[#tokens + 1] = line end
  for line in io.lines(args[2]) do requests[#requests + 1] = line end
  order, at, pause = args[3], tonumber(args[4]), tonumber(args[5])
  math.randomseed(os.time())
  if pause > 0 then delay = function() return pause end end
end

function request()
  local line
  if order == "random" then
    line = requests[math.random(#requests)]
  else
    line = requests[at]
    -- The rest of this run repeats the last one, which is seen in what the levels counted: the list was too short.
    if at < #requests then at = at + 1 end
  end
  local token, method, path, body = line:match("^(%d+) (%S+) (%S+) ?(.*)$")
  token = tokens[tonumber(token)]
  -- An empty line of the file: nobody.
  if token ~= "" then token = "\r\nAuthorization: Bearer " .. token end
  return method .. " " .. path .. " HTTP/1.1\r\nHost: load" .. token
    .. "\r\nContent-Type: application/json\r\nContent-Length: " .. #body .. "\r\n\r\n" .. body
end

function done(summary, latency)
  local errors = summary.errors
  print(string.format("measured %d %d %d %d %d", summary.requests, summary.duration, latency:percentile(50),
    latency:percentile(99), errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
