"""What the next shift may make. It computes, so it runs in a process of its own: nobody waits."""

import random

from lines import oee

import headgate


@headgate.handler(runtime="process", memory=512, timeout=60)
def handleMessage(payload, context):
    chance, runs = random.Random(payload.get("seed")), payload.get("runs", 1000)
    made = []
    for run in range(1, runs + 1):
        made.append(round(sum(480 * oee.of_hour(chance.randrange(24)) for _ in range(8))))
        if run % 100 == 0:
            context.progress({"done": run, "of": runs})
    made.sort()
    return {"low": made[runs // 10], "middle": made[runs // 2], "high": made[runs * 9 // 10]}
