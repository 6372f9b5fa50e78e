"""Stages: phases in order, and ramps whose laws hold for every size."""

import itertools

import pytest

from bertjax import config as config_lib
from bertjax.config import stages


def config_of(**phases):
    tree = config_lib.default()
    tree.phases = {name: config_lib.phase(**fields) for name, fields in phases.items()}
    return config_lib.from_config_dict(tree)


def test_phases_run_in_order_and_the_last_one_holds_past_the_end():
    config = config_of(
        phase1={"steps": 5}, phase2={"steps": 0}, phase3={"steps": 2, "sequence_length": 512}
    )
    assert [(s.phase_index, s.first_step, s.end_step) for s in stages.of(config)] == [
        (0, 0, 5),
        (1, 5, 7),
    ]
    at = [stages.at(config, step) for step in (0, 4, 5, 6, 7, 100)]
    assert [s.phase_index for s in at] == [0, 0, 1, 1, 1, 1]
    assert [s.phase.sequence_length for s in at] == [128, 128, 512, 512, 512, 512]


def test_a_ramp_doubles_the_batch_in_equal_numbers_of_steps():
    config = config_of(
        phase1={"steps": 3},
        phase2={"steps": 100, "batch_size": 64, "ramp_from": 8, "ramp_steps": 60},
    )
    ramp = stages.of(config)[1:]
    assert [(s.first_step, s.steps, s.phase.batch_size, s.first_row) for s in ramp] == [
        (3, 20, 8, 0),
        (23, 20, 16, 160),
        (43, 20, 32, 480),
        (63, 40, 64, 1120),
    ]
    assert {s.phase_index for s in ramp} == {1}
    assert [stages.at(config, s).phase.batch_size for s in (22, 23, 102)] == [8, 16, 64]


@pytest.mark.parametrize("doublings", [1, 2, 5])
@pytest.mark.parametrize("ramp_steps", [1, 2, 7, 64, 98])
def test_laws_of_every_ramp(doublings, ramp_steps):
    phase = {"steps": 99, "batch_size": 96, "ramp_from": 96 >> doublings, "ramp_steps": ramp_steps}
    ramp = stages.of(config_of(phase1=phase))
    assert sum(s.steps for s in ramp) == 99
    assert all(s.steps > 0 for s in ramp)
    for a, b in itertools.pairwise(ramp):
        assert b.first_step == a.end_step
        assert b.first_row == a.first_row + a.steps * a.phase.batch_size
        assert b.phase.batch_size > a.phase.batch_size
        if ramp_steps >= doublings:  # otherwise some sizes get no step at all
            assert b.phase.batch_size == 2 * a.phase.batch_size
            assert abs(a.steps - ramp_steps / doublings) < 1
    assert ramp[-1].phase.batch_size == 96
    assert ramp[-1].first_step == ramp_steps


def test_micro_batches_keep_their_size_where_the_batch_is_larger():
    phase = {"steps": 9, "batch_size": 64, "ramp_from": 8, "ramp_steps": 6, "micro_batch_size": 16}
    ramp = stages.of(config_of(phase1=phase))
    assert [s.micro_batches for s in ramp] == [1, 1, 2, 4]
    assert stages.of(config_of(phase1={"steps": 9, "batch_size": 12}))[0].micro_batches == 1
