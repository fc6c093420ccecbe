"""
What runs in worker processes, where handlers may hang, crash and eat memory; Linux only.

- `__main__`  the fork server: a program that makes workers, and tells of their ends
- `serving`   a worker: it loads a project's scripts and runs its handlers, one run at a time
- `loading`   the scripts and the library of a project, as a worker loads them
- `scope`     the requests that scripts make: the gateway answers them, over the link
- `speaking`  what a worker says to the gateway: whole frames, from any thread
- `logs`      what scripts log and print: it goes to the gateway's log, in bounds

The gateway's end of it all is in `headgate.runtimes`; `headgate.runtimes.link` says what the two
tell each other. Nothing here sees the gateway's secrets, and nothing of the gateway is imported.
"""
