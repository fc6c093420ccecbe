"""
The channel: one WebSocket connection between a client and a gateway.

- `protocol`  drives the sans-I/O parts over an asyncio transport, at both ends
- `address`   where a gateway listens
- `client`    opens a channel
- `server`    the gateway's end of a channel
- `listener`  the gateway's one port, and the TLS handshake
- `tls`       what TLS is spoken with, and what its errors mean
- `site`      the names by which a gateway may be called
- `local`     where the owner's local token is found
"""
