"""
The channel's language: bytes and the time go in, events and bytes come out.

::

    codec       values of a payload as bytes
    frames      the words of the channel
    handshake   the login, which gives a session
    session     one connected session

Nothing here knows a loop, a socket, a thread or a clock.
"""
