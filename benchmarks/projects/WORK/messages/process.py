def handleMessage(payload):
    return {"ok": payload["number"]}
