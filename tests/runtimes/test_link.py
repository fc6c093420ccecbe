"""Frames between gateway and worker, cut out of what arrives."""

from __future__ import annotations

import pytest

from headgate.runtimes.link import LENGTH, Granted, Reader, Returned, Stop, framed

FRAMES = [Stop(1), Returned(2, bytes(100_000)), Granted(3, 4), Stop(5), Returned(6, b"x" * 300)]


@pytest.mark.parametrize("size", [1, 3, LENGTH, 50, 4096, 1 << 20])
def test_frames_arrive_in_any_pieces(size: int) -> None:
    data = b"".join(framed(frame) for frame in FRAMES)
    reader, found = Reader(), []
    for begin in range(0, len(data), size):
        found += reader.feed(data[begin : begin + size])
    assert [bytes(each) for each in found] == [framed(frame)[LENGTH:] for frame in FRAMES]


def test_more_may_arrive_before_all_frames_of_a_piece_were_taken() -> None:
    reader, found = Reader(), []
    first, second, third = (framed(Stop(number)) for number in (1, 2, 3))
    for each in reader.feed(first + second + third[:2]):
        found.append(bytes(each))
        if len(found) == 1:
            found += map(bytes, reader.feed(third[2:]))
    assert sorted(found) == [data[LENGTH:] for data in (first, second, third)]
