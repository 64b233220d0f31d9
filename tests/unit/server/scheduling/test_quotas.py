from __future__ import annotations

from dataclasses import replace

import pytest

from impasto_engine.parameters import Parameters
from impasto_server.domain.errors import ServiceError
from impasto_server.scheduling.estimates import FIXED_S, FLOAT32_OVER_BFLOAT16, Pace, work
from impasto_server.scheduling.quotas import Quota, Quotas


def refused(quotas: Quotas, owner: str, pixels: int, now: float) -> dict[str, str]:
    with pytest.raises(ServiceError) as caught:
        quotas.check(owner, pixels, now)
    assert (caught.value.code, caught.value.reason) == ("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED")
    return caught.value.metadata


def test_a_client_has_so_many_jobs_at_a_time() -> None:
    """Others are not concerned; one that ends makes room."""
    quotas = Quotas(Quota(jobs=2))
    for job_id in ("a", "b"):
        quotas.check("ann", 1, 0.0)
        quotas.book("ann", job_id, 1, 0.0)
    assert refused(quotas, "ann", 1, 0.0) == {"quota": "jobs", "limit": "2", "used": "2"}
    quotas.check("bob", 1, 0.0)
    quotas.release("ann", "a")
    quotas.release("ann", "a")
    quotas.check("ann", 1, 0.0)
    quotas.book("ann", "c", 1, 0.0)
    assert refused(quotas, "ann", 1, 0.0)["used"] == "2"


def test_a_client_has_so_many_jobs_a_minute() -> None:
    """Whether they ended or not; the refusal says when the next is taken."""
    quotas = Quotas(Quota(jobs_per_minute=2))
    for now in (0.0, 10.0):
        quotas.book("ann", "a", 1, now)
        quotas.release("ann", "a")
    with pytest.raises(ServiceError) as caught:
        quotas.check("ann", 1, 20.0)
    assert caught.value.retry_s == pytest.approx(40.0)
    quotas.check("ann", 1, 60.5)


def test_a_client_has_so_many_pixels_at_a_time() -> None:
    """This job's count too."""
    quotas = Quotas(Quota(pixels=100))
    quotas.book("ann", "a", 60, 0.0)
    quotas.check("ann", 40, 0.0)
    assert refused(quotas, "ann", 41, 0.0)["used"] == "60"


def test_a_job_that_is_larger_than_the_quota_need_not_try_again() -> None:
    """It is wrong, not early."""
    with pytest.raises(ServiceError, match="the canvas has 101 pixels, and your quota is 100") as caught:
        Quotas(Quota(pixels=100)).check("ann", 101, 0.0)
    assert (caught.value.code, caught.value.retry_s) == ("INVALID_ARGUMENT", None)
    assert [field for field, _ in caught.value.violations] == ["parameters.size_px"]


def test_no_quota_is_no_limit_and_accounts_do_not_pile_up() -> None:
    """A thousand clients that went leave nothing behind."""
    quotas = Quotas(Quota())
    for number in range(1000):
        quotas.check(str(number), 10**9, 0.0)
        quotas.book(str(number), "a", 10**9, 0.0)
        quotas.check(str(number), 1, 100.0)
        quotas.release(str(number), "a")
    assert not quotas._accounts
    quotas.release("nobody", "a")


def test_work_counts_pixels_and_steps_of_every_level() -> None:
    """By hand: 60 steps at 256 px and 40 at 512 px; what is done is not counted, other networks cost theirs."""
    parameters = Parameters(size_px=512, steps=100)
    whole = 60 * 256 * 128 + 40 * 512 * 256
    assert work(512, 256, parameters) == whole
    assert work(512, 256, parameters, done=70) == 30 * 512 * 256
    assert work(512, 256, parameters, done=100) == 0
    assert work(512, 256, replace(parameters, network="alexnet:random-0")) < whole / 5


def test_pace_is_what_the_start_measured_until_steps_tell() -> None:
    """Unknown before; then the median of the steps, within four times of what was measured."""
    pace, parameters = Pace(), Parameters(size_px=100, steps=10, levels=1)
    assert pace.seconds(100, 100, parameters) is None
    pace.measured("cpu", 1e-5, "float32")
    assert pace.seconds(100, 100, parameters) == pytest.approx(1.0 + 10 * FIXED_S)
    for _ in range(20):
        pace.learn("cpu", 0.2 + FIXED_S, 10_000)
    assert pace.seconds(100, 100, parameters) == pytest.approx(2.0 + 10 * FIXED_S)
    for _ in range(100):
        pace.learn("cpu", 90.0, 10_000)
    assert pace.seconds(100, 100, parameters) == pytest.approx(4.0 + 10 * FIXED_S)


def test_one_step_that_was_held_up_and_tiny_canvases_teach_nothing() -> None:
    """A worker that was stopped for fifteen seconds, and a job of 16 px, whose steps are mostly what is fixed."""
    pace, parameters = Pace(), Parameters(size_px=512, steps=100, levels=1)
    pace.measured("cpu", 1e-6, "float32")
    for _ in range(30):
        pace.learn("cpu", 1e-6 * 512 * 512 + FIXED_S, 512 * 512)
    before = pace.seconds(512, 512, parameters)
    pace.learn("cpu", 15.0, 512 * 512)
    for _ in range(1000):
        pace.learn("cpu", 0.008, 16 * 16)
    assert pace.seconds(512, 512, parameters) == pytest.approx(before)


def test_pace_is_the_mean_of_the_devices() -> None:
    """Nobody knows which of them a job will meet."""
    pace, parameters = Pace(), Parameters(size_px=100, steps=10, levels=1)
    pace.measured("a", 1e-5, "float32")
    pace.measured("b", 3e-5, "float32")
    assert pace.seconds(100, 100, parameters) == pytest.approx(2.0 + 10 * FIXED_S)


def test_pace_knows_each_arithmetic() -> None:
    """Float32 is guessed from a bfloat16 device's measurement until its steps tell; they teach nothing of bfloat16."""
    pace, own = Pace(), Parameters(size_px=100, steps=10, levels=1)
    wide = replace(own, precision="float32")
    assert pace.seconds(100, 100, wide) is None
    pace.measured("cpu", 1e-5, "bfloat16")
    assert pace.seconds(100, 100, wide) == pytest.approx(FLOAT32_OVER_BFLOAT16 + 10 * FIXED_S)
    for _ in range(20):
        pace.learn("cpu", 0.36 + FIXED_S, 10_000, "float32")
    assert pace.seconds(100, 100, wide) == pytest.approx(3.6 + 10 * FIXED_S)
    assert pace.seconds(100, 100, own) == pytest.approx(1.0 + 10 * FIXED_S)
    assert pace.seconds(100, 100, replace(own, precision="bfloat16")) == pytest.approx(1.0 + 10 * FIXED_S)


def test_float32_costs_nothing_more_where_it_is_the_devices_own() -> None:
    """And its steps are those of every job."""
    pace, own = Pace(), Parameters(size_px=100, steps=10, levels=1)
    wide = replace(own, precision="float32")
    pace.measured("cpu", 1e-5, "float32")
    assert pace.seconds(100, 100, wide) == pace.seconds(100, 100, own) == pytest.approx(1.0 + 10 * FIXED_S)
    for _ in range(20):
        pace.learn("cpu", 0.2 + FIXED_S, 10_000)
    assert pace.seconds(100, 100, wide) == pytest.approx(2.0 + 10 * FIXED_S)
