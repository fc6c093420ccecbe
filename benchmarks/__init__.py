"""
Benchmarks: Headgate beside bare prototypes of the same shape and beside its peers, in one run.

    rows        what is measured, beside what, and what must be reached
    load        the loads: so many in flight, one at a time, many connections
    candidates  a server, its client, and a load on both
    processes   each side has processes of its own, each server one core and its client another
    gateway     the side that is measured: `headgate run` and its clients
    company     other clients of it: a noisy one, idle ones
    bare        the bare echo; hop, the bare hop to a thread and back
    peers       grpc.aio, pyzmq, RPyC, Pyro5; broker, NATS
    pairs       runs of both sides in turn, medians and quartiles
    report      results.json and the page; chart, the chart
    quick       a few rows that must not fall under their floors
    reconnects  a program of its own: sessions of a crowd are cut and come back by ticket
"""
