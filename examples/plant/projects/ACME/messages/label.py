"""The label printer takes one label after the other: Dedicated is one thread, strictly in order."""

import itertools

import headgate

numbers = itertools.count(1)


@headgate.handler(threading="Dedicated", queue=50, timeout=10)
def handleMessage(payload, context):
    return {"label": f"{payload['batch']}-{next(numbers):04d}", "for": context.caller.user}
