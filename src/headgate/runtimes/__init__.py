"""
Where handlers run.

- `gate`     how many runs of a handler are under way, and which may begin
- `execute`  one run of a handler: decode, call, encode
- `pool`     threads that take invocations one at a time, and give their place back while they wait
- `tasks`    `async def` handlers on an event loop of their own
- `project`  the runtime of a project's handlers: a gate for each, and the lane it runs in
- `process`  worker processes, each of which runs one handler at a time
- `workers`  one of them at work: what it was given, and what it says
- `supply`   makes them, ahead of need
- `forkserver`  the process that they are forked from
- `link`     what the gateway and its worker processes say to each other
"""
