"""
Where handlers run.

- `gate`     how many runs of a handler are under way, and which may begin
- `execute`  one run of a handler: decode, call, encode
- `pool`     threads that take invocations one at a time, and give their place back while they wait
- `tasks`    `async def` handlers on an event loop of their own
- `thread`   the runtime of a project's handlers: concurrency, queues, dedicated threads
"""
