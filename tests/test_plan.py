"""At which steps what happens."""

import pytest

from automix_jax.train.plan import Plan


def walk(plan, step=0):
    """The steps at which a run that begins at one looks up, and those at which it saves."""
    looks, saves = [], []
    while step < plan.total:
        before, step = step, step + plan.dispatch(step)
        looks.append(step)
        if plan.saves(before, step):
            saves.append(step)
    return looks, saves


@pytest.mark.parametrize("checkpoint_steps", [1, 2, 3, 5, 6, 7, 10, 100])
@pytest.mark.parametrize("steps_per_dispatch", [1, 2, 4, 6, 9])
def test_what_is_scheduled_is_what_a_run_saves(checkpoint_steps, steps_per_dispatch):
    plan = Plan(3, 6, steps_per_dispatch, checkpoint_steps)
    looks, saves = walk(plan)
    assert [step for step in range(1, 19) if plan.scheduled(step)] == saves
    assert {6, 12, 18} <= set(looks) and saves[-1] == 18
    assert [step for step in looks if plan.ends_epoch(step)] == [6, 12, 18]
    for start in range(1, 18):  # within a dispatch too: the next ends where it would have
        later, _ = walk(plan, start)
        assert later == [step for step in looks if step > start]


def test_a_checkpoint_for_every_multiple_that_is_passed():
    _, saves = walk(Plan(3, 6, 4, 5))  # 5, 10 and 15 lie in the dispatches that end there
    assert saves == [6, 10, 16, 18]
