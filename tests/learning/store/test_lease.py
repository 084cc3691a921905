"""Two attempts of one job never hold its lease at the same time."""

import threading
import time

import pytest

from transfer_learning.errors import OutcomeUnknown, StoreUnreachable
from transfer_learning.store import documents
from transfer_learning.store.lease import Lease
from transfer_learning.store.object_store import MemoryObjectStore

KEY = "checkpoints/f00d/lease.json"


class Clock:
    """Seconds that pass only when told."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Silent(MemoryObjectStore):
    """A store that can stop answering."""

    down = False

    def get(self, key):
        if self.down:
            raise StoreUnreachable("down")
        return super().get(key)

    def put(self, key, data, **conditions):
        if self.down:
            raise OutcomeUnknown("down")
        return super().put(key, data, **conditions)


def lease(objects, clock, owner="a"):
    return Lease(objects, "f00d", owner=owner, term=60, clock=clock)


def test_the_first_attempt_gets_the_lease_and_the_second_does_not():
    objects, clock = MemoryObjectStore(), Clock()

    assert lease(objects, clock).try_acquire() is None
    assert lease(objects, clock, "b").try_acquire() is not None


def test_a_lease_that_was_given_back_is_free_at_once():
    objects, clock = MemoryObjectStore(), Clock()
    first = lease(objects, clock)
    first.try_acquire()

    first.release()

    assert lease(objects, clock, "b").try_acquire() is None


def test_a_holder_that_renews_is_never_taken_over():
    objects, clock = MemoryObjectStore(), Clock()
    holder, waiting = lease(objects, clock), lease(objects, clock, "b")
    holder.try_acquire()
    seen, since = waiting.try_acquire(), clock.now

    for _ in range(20):
        clock.now += 30
        holder.renew()
        seen, since = waiting._watch(seen, since)
        assert seen is not None

    assert not holder.lost


def test_a_silent_holder_is_taken_over_after_a_whole_term_and_not_before():
    objects, clock = MemoryObjectStore(), Clock()
    holder, waiting = lease(objects, clock), lease(objects, clock, "b")
    holder.try_acquire()
    seen, since = waiting.try_acquire(), clock.now

    clock.now = 59
    seen, since = waiting._watch(seen, since)
    assert seen is not None
    clock.now = 60
    seen, since = waiting._watch(seen, since)

    assert seen is None
    assert holder.lost
    assert not waiting.lost


def test_a_holder_knows_that_it_has_lost_before_anybody_can_take_over():
    objects, clock = Silent(), Clock()
    holder = lease(objects, clock)
    holder.try_acquire()

    objects.down = True
    clock.now = 39
    with pytest.raises(OutcomeUnknown):
        holder.renew()
    assert not holder.lost
    clock.now = 41

    assert holder.lost


def test_a_holder_that_was_taken_over_does_not_renew():
    objects, clock = MemoryObjectStore(), Clock()
    holder = lease(objects, clock)
    holder.try_acquire()
    standing = documents.read(objects, KEY)
    documents.replace(objects, KEY, {"owner": "b", "renewal": "x"}, standing.etag)

    holder.renew()
    holder.release()

    assert holder.lost
    assert documents.read(objects, KEY).body["owner"] == "b"


def test_of_many_attempts_one_at_a_time_holds_the_lease():
    objects, inside, most = MemoryObjectStore(), [], []

    def attempt(owner):
        mine = Lease(objects, "f00d", owner=owner, term=5)
        assert mine.acquire(poll=0.002)
        inside.append(owner)
        most.append(len(inside))
        time.sleep(0.01)
        inside.remove(owner)
        mine.release()

    threads = [threading.Thread(target=attempt, args=(str(n),)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert most == [1] * 8


def test_waiting_ends_when_the_task_is_stopped():
    objects = MemoryObjectStore()
    Lease(objects, "f00d", owner="a", term=5).try_acquire()

    assert Lease(objects, "f00d", owner="b", term=5).acquire(give_up=lambda: True, poll=0.01) is False


def test_a_holder_with_a_longer_term_is_given_its_own_time():
    objects, clock = MemoryObjectStore(), Clock()
    Lease(objects, "f00d", owner="slow", term=600, clock=clock).try_acquire()
    quick = Lease(objects, "f00d", owner="quick", term=6, clock=clock)
    seen, since = quick.try_acquire(), clock()

    clock.now = 599
    seen, since = quick._watch(seen, since)
    assert seen is not None
    clock.now = 600

    assert quick._watch(seen, since)[0] is None


def test_whoever_waits_for_a_long_lease_still_gives_up_soon():
    objects = MemoryObjectStore()
    Lease(objects, "f00d", owner="a", term=6000).try_acquire()
    started = time.monotonic()
    asked = iter([False, True])

    assert not Lease(objects, "f00d", owner="b", term=6000).acquire(give_up=lambda: next(asked))
    assert time.monotonic() - started < 3
