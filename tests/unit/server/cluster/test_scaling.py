from __future__ import annotations

import random

import pytest

from impasto_server.cluster.scaling import Decision, Limits, Load, Scaler, Worker, devices_wanted, to_drain

LIMITS = Limits(least=1, most=8, target_s=60, shrink_after_s=300)
NAMES = [f"w{number}" for number in range(8)]


def workers(count: int, running: int = 0, per_host: int = 2) -> list[Worker]:
    return [Worker(NAMES[number], f"h{number // per_host}", running) for number in range(count)]


@pytest.mark.parametrize(
    ("load", "wanted"),
    [
        (Load(), 1),
        (Load(waiting=1, waiting_s=1), 1),
        (Load(waiting=1, waiting_s=10_000), 1),
        (Load(waiting=100, waiting_s=180), 3),
        (Load(waiting=100, waiting_s=181), 4),
        (Load(waiting=100, waiting_s=1e6), 8),
        (Load(running=32, slots=16), 2),
        (Load(running=33, slots=16), 3),
        (Load(running=16, waiting=10, waiting_s=90, slots=16), 3),
        (Load(running=1, waiting=1, waiting_s=600), 2),
        (Load(waiting=5, waiting_s=float("nan")), 1),
    ],
)
def test_devices_follow_work(load: Load, wanted: int) -> None:
    """Running jobs keep what they fill, queued seconds add their share, and neither jobs nor limits are exceeded."""
    assert devices_wanted(load, LIMITS) == wanted


def test_none_are_kept_without_work_if_none_need_to_be() -> None:
    """And the first job brings the first device, however short it is."""
    limits = Limits(least=0, most=4)
    assert devices_wanted(Load(), limits) == 0
    assert devices_wanted(Load(waiting=1), limits) == 1


@pytest.mark.parametrize(
    "values", [{"least": 3, "most": 2}, {"least": -1}, {"most": 0}, {"target_s": 0}, {"shrink_after_s": -1}]
)
def test_limits_that_cannot_hold_are_refused(values: dict[str, int]) -> None:
    """When they are set, with the reason."""
    with pytest.raises(ValueError, match=r"MIN\.\.MAX|target_s"):
        Limits(**values)


def test_growth_is_immediate_and_shrinking_waits() -> None:
    """Until fewer devices were enough for the whole time; a moment of load starts it anew."""
    scaler = Scaler(LIMITS)
    heavy, light = Load(waiting=50, waiting_s=240), Load(running=1)
    assert scaler.decide(0, heavy, workers(1)) == Decision(4, add=3)
    for now in range(10, 300, 10):
        assert scaler.decide(now, light, workers(4)) == Decision(4)
    assert scaler.decide(290, heavy, workers(4)) == Decision(4)
    for now in range(300, 590, 10):
        assert scaler.decide(now, light, workers(4)) == Decision(4)
    decision = scaler.decide(591, light, workers(4))
    assert decision.devices == 1
    assert len(decision.drain) == 3


def test_a_new_server_does_not_shrink_what_it_finds() -> None:
    """Before it has watched for the whole time."""
    scaler = Scaler(LIMITS)
    assert scaler.decide(1000, Load(), workers(6)).drain == ()
    assert scaler.decide(1299, Load(), workers(6)).drain == ()
    assert len(scaler.decide(1300, Load(), workers(6)).drain) == 5


def test_a_drained_worker_leaves_only_without_jobs() -> None:
    """It stays as long as it runs one; new load takes it back before a new one is started."""
    scaler = Scaler(LIMITS)
    scaler.decide(0, Load(running=1), [])
    some = [Worker("a", "x", 1), Worker("b", "x", 2, draining=True), Worker("c", "y", 0, draining=True)]
    assert scaler.decide(1, Load(running=1), some) == Decision(1, end=("c",))
    assert scaler.decide(2, Load(running=3, waiting=9, waiting_s=60), some) == Decision(4, add=1, resume=("b", "c"))


def test_whole_hosts_are_emptied() -> None:
    """Since an autoscaler can only take back a host on which nothing runs."""
    some = [Worker("a", "x", 0), Worker("b", "x", 5), Worker("c", "y", 1), Worker("d", "y", 1)]
    assert to_drain(some, 2) == ["c", "d"]
    assert to_drain(some, 3) == ["c", "d", "a"]
    assert to_drain(some, -1) == []


def test_random_loads_never_break_the_limits() -> None:
    """Workers are never more than the most, those with jobs are never ended, and load that stays is reached."""
    numbers = random.Random(5)
    for _ in range(200):
        limits = Limits(numbers.randint(0, 3), numbers.randint(3, 9), 60, numbers.choice([0, 30, 300]))
        scaler, present, serial = Scaler(limits), list[Worker](), 0
        for step in range(60):
            load = Load(numbers.randint(0, 20), numbers.uniform(0, 900), numbers.randint(0, 8), 2)
            decision = scaler.decide(step * 5.0, load, present)
            busy = {worker.name for worker in present if worker.running}
            assert not busy & set(decision.end)
            assert set(decision.end) <= {worker.name for worker in present if worker.draining}
            assert not set(decision.resume) & set(decision.end)
            assert limits.least <= decision.devices <= limits.most
            kept = [worker for worker in present if worker.name not in decision.end]
            changed = [
                Worker(
                    worker.name,
                    worker.host,
                    numbers.randint(0, 2),
                    draining=(worker.draining or worker.name in decision.drain) and worker.name not in decision.resume,
                )
                for worker in kept
            ]
            present = changed + [Worker(f"n{serial + extra}", f"h{numbers.randint(0, 3)}") for extra in range(decision.add)]
            serial += decision.add
            assert len(present) <= limits.most
            used = sum(not worker.draining for worker in present)
            assert used >= min(devices_wanted(load, limits), limits.most - sum(worker.draining for worker in present))
