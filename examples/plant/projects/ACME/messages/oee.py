"""The OEE of a shift, computed by the project's library, which is there without import."""


def handleMessage(payload):
    minutes = lines.oee.Shift(payload["planned"], payload["running"])
    return lines.oee.of_shift(
        minutes, made=payload["made"], good=payload["good"], per_minute=payload["per_minute"]
    )
