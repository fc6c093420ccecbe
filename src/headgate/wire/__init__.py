"""
The channel's language: bytes and the time go in, events and bytes come out.

::

    codec       values of a payload as bytes; it says what stands behind it
    frames      the words of the channel
    handshake   the login, which gives a session
    session     one connected session
    clock       how long messages were under way, from the times that it is given

Nothing here knows a loop, a socket or a thread, or reads a clock.
"""
