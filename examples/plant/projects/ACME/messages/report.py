"""A report that takes its time: it tells how far it is, and stops when nobody waits for it."""

import time

from lines import oee


def handleMessage(payload, context):
    hours, seconds = payload.get("hours", 8), payload.get("seconds", 2.0)
    rows = []
    for hour in range(1, hours + 1):
        if context.cancelled:
            system.util.getLogger("report").info("stopped before hour %d", hour)
            return None
        time.sleep(seconds / hours)  # stands for a query of the historian
        rows.append({"hour": hour, "oee": oee.of_hour(hour)})
        context.progress({"done": hour, "of": hours})
    best = max(rows, key=lambda row: row["oee"])
    return {"rows": rows, "best_hour": best["hour"]}
