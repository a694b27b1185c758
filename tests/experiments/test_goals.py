"""The page of goals: what counts as met."""

import os

import pytest


@pytest.fixture
def goals(monkeypatch):
    """The module, which sets the number of threads for a process of its own."""
    with monkeypatch.context() as patch:
        patch.setenv("NUMBA_NUM_THREADS", os.environ["NUMBA_NUM_THREADS"])
        from experiments import goals
    return goals


def peer_records(task, peer, measure, scores):
    return [
        {"task": task, "peer": peer, "seed": seed, "scores": {measure: score}}
        for seed, score in enumerate(scores)
    ]


def test_the_mean_over_the_seeds_decides(goals):
    records = [
        *peer_records("t98g", "tinyunet", "mean_iou", [0.78, 0.81]),
        *peer_records("axons", "tinyunet", "mean_iou", [0.65, 0.74]),
        *peer_records("t98g", "PyTorch, Adam", "mean_iou", [0.79, 0.79]),
        *peer_records("axons", "PyTorch, Adam", "mean_iou", [0.71, 0.70]),
    ]
    phase, axons, ahead = goals.goals_at_the_end(records)
    assert (phase.goal, phase.met, phase.seeds) == ("0.79", True, "2")
    assert (axons.goal, axons.met) == ("0.7", False)
    assert (ahead.reached, ahead.met) == ("1 of 2, not axons", False)


def test_a_goal_for_each_seed_is_missed_by_one(goals):
    late = {"course": "dic", "scores": [[25, 0.7]]}, {"course": "dic", "scores": [[25, 0.3], [325, 0.7]]}
    records = [{"seed": seed, **record} for seed, record in enumerate(late)]
    [row] = goals.goals_on_the_way(records)
    assert (row.reached, row.met) == ("25, 325", False)
    assert [row.met for row in goals.goals_on_the_way(records[:1])] == [True]


def test_the_best_effort_is_the_mean_of_the_most_networks(goals):
    scores = {(0,): 0.97, (1,): 0.98, (0, 1): 0.976}
    efforts = [
        {"seeds": list(seeds), "scores": {"v_rand": score - 0.02, "v_rand_fine": score}}
        for seeds, score in scores.items()
    ]
    alone, fine, row = goals.goals_of_effort(efforts)
    assert (alone.reached, alone.met, alone.seeds) == ("0.955 (0.950–0.960)", False, "2")
    assert (fine.reached, fine.met, fine.seeds) == ("0.975 (0.970–0.980)", True, "2")
    assert (row.reached, row.met, row.seeds) == ("0.956", False, "2 together")
    assert not list(goals.goals_of_effort([]))


def test_scores_in_eight_symmetries_have_a_row_of_their_own(goals):
    records = peer_records("axons", "tinyunet", "mean_iou", [0.65, 0.74])
    records[0] |= {goals.peers.SYMMETRIC: {"mean_iou": 0.72}}
    plain, symmetric, _ = goals.goals_at_the_end(records)
    assert (plain.met, plain.seeds) == (False, "2")
    assert (symmetric.reached, symmetric.met, symmetric.seeds) == ("0.720", True, "1")
