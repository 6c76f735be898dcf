"""Times of frames and the queue between reading and running, without a video."""

import threading
import time
from fractions import Fraction

import pytest

from detheads.deploy.video.clock import TICK, Clock
from detheads.deploy.video.mailbox import Mailbox

SECOND = Fraction(1)


def test_a_recording_s_own_times_count_from_its_first_frame() -> None:
    clock = Clock(Fraction(30), live=False)
    assert [clock.of(Fraction(own, 10), arrival=99) for own in (14, 15, 19)] == [0, Fraction(1, 10), Fraction(5, 10)]


def test_frames_without_times_come_at_the_rate() -> None:
    clock = Clock(Fraction(10), live=False)
    assert [clock.of(None, arrival=0) for _ in range(3)] == [0, Fraction(1, 10), Fraction(2, 10)]


def test_joined_clips_go_on_where_the_first_one_ends() -> None:
    clock = Clock(Fraction(10), live=False)
    assert [clock.of(own * SECOND, arrival=0) for own in (5, 7, 1, 2)] == [0, 2, Fraction(21, 10), Fraction(31, 10)]


def test_times_that_stand_still_grow_by_a_tick() -> None:
    clock = Clock(Fraction(10), live=False)
    assert [clock.of(own * SECOND, arrival=0) for own in (0, 1, 1, 2)] == [0, 1, 1 + TICK, 2]


def test_a_live_stream_has_its_own_times_until_they_run_off() -> None:
    clock = Clock(Fraction(10), live=True)
    own = [100.0, 100.5, 101.5, 5.0, 6.0, 1000.0]
    arrivals = [50.0, 50.7, 51.4, 52.0, 53.1, 54.0]
    found = [float(clock.of(Fraction(time), arrival)) for time, arrival in zip(own, arrivals, strict=True)]
    assert found == pytest.approx([0, 0.5, 1.5, 2.0, 3.0, 4.0], abs=1e-4)


def test_a_stream_that_came_back_goes_on_at_the_time_of_arrival() -> None:
    clock = Clock(None, live=True)
    assert clock.of(7 * SECOND, 100.0) == 0
    clock.restart()
    assert clock.of(7 * SECOND, 103.0) == 3
    assert clock.of(8 * SECOND, 104.5) == 4


def test_the_newest_wait_and_the_others_are_counted() -> None:
    mailbox: Mailbox[int] = Mailbox(2, newest=True)
    assert all(mailbox.put(item) for item in range(7))
    mailbox.close()
    assert not mailbox.put(8)
    assert not mailbox.ended
    assert [mailbox.get(), mailbox.get(), mailbox.get()] == [5, 6, None]
    assert mailbox.ended
    assert mailbox.dropped == 5


def test_a_writer_waits_for_room_and_nothing_is_lost() -> None:
    mailbox: Mailbox[int] = Mailbox(2, newest=False)

    def write() -> None:
        for item in range(20):
            mailbox.put(item)
        mailbox.close()

    writer = threading.Thread(target=write)
    writer.start()
    time.sleep(0.05)
    assert writer.is_alive()
    assert [mailbox.get(1) for _ in range(20)] == list(range(20))
    writer.join()
    assert mailbox.dropped == 0


def test_a_writer_that_waits_is_let_go_when_nobody_reads_any_more() -> None:
    mailbox: Mailbox[int] = Mailbox(1, newest=False)
    mailbox.put(1)
    told: list[bool] = []
    writer = threading.Thread(target=lambda: told.append(mailbox.put(2)))
    writer.start()
    mailbox.close()
    writer.join(5)
    assert told == [False]


def test_who_waits_in_vain_gets_nothing() -> None:
    assert Mailbox[int](1, newest=False).get(0.01) is None
