"""
The channel: one WebSocket connection between a client and a gateway.

- `protocol`  drives the sans-I/O parts over an asyncio transport, at both ends
- `address`   where a gateway listens
- `client`    opens a channel
- `server`    the gateway's one port
- `local`     where the owner's local token is found
"""
