"""
Where handlers run.

- `gate`     how many runs of a handler are under way, and which may begin
- `order`    a gate that keeps calls in order by a key of the payload
- `fair`     a queue in which sessions take turns, and higher priorities go first
- `pace`     when there will be room in a full queue
- `execute`  one run of a handler: decode, call, encode
- `pool`     threads that take invocations one at a time, and give their place back while they wait
- `tasks`    `async def` handlers on an event loop of their own
- `project`  the runtime of a project's handlers: a gate for each, and the lane it runs in
- `process`  the lane of worker processes, each of which runs one handler at a time
- `patrol`   looks at what they run: what has not begun, takes long, holds too much memory
- `upkeep`   how they come and go: as many as are needed, none too old or too large
- `hearing`  what they say: ends of runs, values, log records, requests of handlers
- `staging`  which of them gets which run, and how runs are taken back
- `roster`   who of them is there
- `supply`   makes them, ahead of need
- `workers`  one of them at work: what it was given, and the way to it
- `forkserver`  the process that they are forked from
- `link`     what the gateway and its worker processes say to each other
"""
