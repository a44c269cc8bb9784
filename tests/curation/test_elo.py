"""Elo equals a literal loop; Bradley-Terry its closed form and scipy's optimum; intervals cover what they should."""

import numpy as np
import pytest
from scipy.optimize import minimize

from kineograph.curation.elo import (
    bradley_terry,
    elo,
    elo_in_orders,
    information_interval,
    prompt_bootstrap,
    rank,
    win_counts,
)
from kineograph.errors import DataError, InputError

GAPS = np.array([0.0, 20.0, 65.0, 95.0])  # the true ratings of reference/curation.md's simulation: gaps 20, 45, 30


def votes(ratings, prompts=64, per_pair=3, seed=0, spread=0.0):
    """Simulate a study: every pair on every prompt; `spread` is the per-prompt scatter of ratings (clustering)."""
    rng = np.random.default_rng(seed)
    winners, losers, about = [], [], []
    for prompt in range(prompts):
        here = ratings + rng.normal(0, spread, len(ratings)) if spread else ratings
        for a in range(len(ratings)):
            for b in range(a):
                chance = 1 / (1 + 10 ** ((here[b] - here[a]) / 400))
                for won in rng.random(per_pair) < chance:
                    winners.append(a if won else b)
                    losers.append(b if won else a)
                    about.append(prompt)
    return np.array(winners), np.array(losers), np.array(about)


def literal_elo(winners, losers, models, order):
    ratings = [1000.0] * models
    for i in order:
        w, loser = winners[i], losers[i]
        expected = 1 / (1 + 10 ** ((ratings[loser] - ratings[w]) / 400))
        ratings[w] += 1 * (1 - expected)
        ratings[loser] -= 1 * (1 - expected)
    return ratings


def test_elo_is_the_papers_update_in_every_order():
    winners, losers, _ = votes(GAPS, prompts=10)
    rng = np.random.default_rng(5)
    orders = np.stack([rng.permutation(len(winners)) for _ in range(7)])
    expected = [literal_elo(winners, losers, 4, order) for order in orders]
    np.testing.assert_allclose(elo_in_orders(winners, losers, 4, orders), expected, rtol=1e-13)


def test_one_vote_moves_half_a_point():
    np.testing.assert_allclose(elo(np.array([1]), np.array([0]), 3), [999.5, 1000.5, 1000.0])


def test_elo_depends_on_the_seed_only_by_its_small_spread():
    winners, losers, _ = votes(GAPS)
    assert len(winners) == 1152  # 6 pairs x 64 prompts x 3 votes, SVD's study of one axis and one criterion
    first, second = (elo(winners, losers, 4, seed=seed) for seed in (0, 1))
    assert first.mean() == pytest.approx(1000)
    assert 0 < np.abs(first - second).max() < 0.5
    assert np.array_equal(first, elo(winners, losers, 4, seed=0))


def test_two_models_have_the_closed_form():
    wins = np.array([[0.0, 30.0], [10.0, 0.0]])
    gap = 400 * np.log10(3)
    np.testing.assert_allclose(bradley_terry(wins), [1000 + gap / 2, 1000 - gap / 2], rtol=1e-12)


def test_bradley_terry_is_the_maximum_that_scipy_finds():
    wins = np.random.default_rng(3).integers(1, 40, (5, 5)).astype(float)
    np.fill_diagonal(wins, 0)

    def loss(s):
        return (wins * np.log1p(np.exp(s[None, :] - s[:, None]))).sum()

    best = minimize(loss, np.zeros(5), tol=1e-14).x
    expected = 1000 + 400 / np.log(10) * (best - best.mean())
    np.testing.assert_allclose(bradley_terry(wins), expected, atol=1e-2)
    np.testing.assert_allclose(bradley_terry(np.stack([wins, wins.T]))[0], expected, atol=1e-2)
    np.testing.assert_allclose(bradley_terry(wins, prior_sd=2000), expected, atol=0.1)


def test_known_gaps_are_recovered_where_elo_shrinks_them():
    winners, losers, _ = votes(GAPS, prompts=3000, seed=2)
    found = bradley_terry(win_counts(winners, losers, 4))
    np.testing.assert_allclose(found - found[0], GAPS, atol=6)
    winners, losers, _ = votes(np.array([0.0, 200.0]), prompts=384, seed=1)
    shrunk = np.diff(elo(winners, losers, 2))[0] / np.diff(bradley_terry(win_counts(winners, losers, 2)))[0]
    assert 0.8 < shrunk < 1  # many votes per model: nearly converged
    winners, losers, _ = votes(GAPS, seed=2)
    few = elo(winners, losers, 4)
    assert np.ptp(few) < 0.9 * np.ptp(bradley_terry(win_counts(winners, losers, 4)))


def test_intervals_cover_the_truth_and_are_wider_than_the_spread_of_shuffles():
    covered, truth = 0, GAPS - GAPS.mean() + 1000
    for seed in range(40):
        winners, losers, prompts = votes(GAPS, seed=seed)
        low, high = np.quantile(prompt_bootstrap(winners, losers, prompts, 4, resamples=300), [0.025, 0.975], axis=0)
        covered += ((low <= truth) & (truth <= high)).sum()
    assert 0.88 <= covered / 160 <= 0.995
    winners, losers, prompts = votes(GAPS)
    orders = np.random.default_rng(0).permuted(np.tile(np.arange(len(winners)), (300, 1)), axis=1)
    shuffles = elo_in_orders(winners, losers, 4, orders).std(0).mean()
    sampling = prompt_bootstrap(winners, losers, prompts, 4).std(0).mean()
    assert sampling > 3 * shuffles


def test_resampling_prompts_sees_what_resampling_votes_would_miss():
    winners, losers, prompts = votes(np.zeros(3), prompts=64, per_pair=8, spread=300.0, seed=4)
    by_prompt = prompt_bootstrap(winners, losers, prompts, 3).std(0).mean()
    by_vote = prompt_bootstrap(winners, losers, np.arange(len(winners)), 3).std(0).mean()
    assert by_prompt > 1.4 * by_vote


def test_a_winner_is_named_only_when_intervals_are_apart():
    names = ["0 %", "12.5 %", "25 %", "50 %"]
    far = rank(*votes(np.array([0.0, 0.0, 150.0, 0.0])), names)
    assert far.winner == "25 %"
    assert far.standings[0].model == "25 %"
    assert "lies above all others" in far.why
    near = rank(*votes(np.array([0.0, 0.0, 15.0, 0.0])), names)
    assert near.winner is None
    assert near.why.startswith("No winner")
    assert (near.votes, near.prompts) == (1152, 64)
    assert sum(one.wins for one in near.standings) == 1152
    assert all(one.low < one.rating < one.high for one in near.standings)


def test_equal_models_rarely_get_a_winner():
    named = sum(rank(*votes(np.zeros(4), seed=s), list("abcd"), resamples=200).winner is not None for s in range(30))
    assert named <= 1


def test_few_or_unanimous_votes_do_not_make_a_winner():
    def unanimous(count, prompts):
        return rank(np.ones(count, int), np.zeros(count, int), np.arange(count) % prompts, ["a", "b"], resamples=200)

    assert unanimous(2, 2).winner is None
    assert "2 prompts say nothing about others" in unanimous(2, 2).why
    assert unanimous(30, 5).winner is None
    assert unanimous(64, 64).winner == "b"
    one = unanimous(64, 64).standings
    assert one[0].low < one[0].rating <= one[0].high
    assert one[0].high - one[0].low > 100


def test_the_information_interval_is_that_of_two_proportions():
    wins = np.array([[0.0, 59.5], [19.5, 0.0]])  # with half a vote each way 60 to 20
    low, high = information_interval(wins, 0.95)
    half = 1.959964 * np.sqrt(1 / 60 + 1 / 20) / 2 * 400 / np.log(10)
    np.testing.assert_allclose((high - low) / 2, [half, half], rtol=5e-3)
    np.testing.assert_allclose((high + low) / 2 - 1000, [200 * np.log10(3), -200 * np.log10(3)], rtol=5e-3)


def test_a_model_that_never_won_is_refused_by_maximum_likelihood_and_finite_with_the_prior():
    winners, losers = np.array([0, 0, 1]), np.array([1, 2, 2])
    with pytest.raises(DataError, match="model 1 never won against model 0"):
        bradley_terry(win_counts(winners, losers, 3))
    ranking = rank(winners, losers, np.arange(3), ["a", "b", "c"])
    assert [one.model for one in ranking.standings] == ["a", "b", "c"]
    assert ranking.winner is None


@pytest.mark.parametrize(
    ("winners", "losers", "message"),
    [([0, 1], [1], "two vectors"), ([0], [4], "name model 4"), ([1], [1], "two different")],
)
def test_votes_that_make_no_sense_are_refused(winners, losers, message):
    with pytest.raises(InputError, match=message):
        elo(np.array(winners), np.array(losers), 3)


def test_nothing_to_rank():
    with pytest.raises(DataError, match="at least two models"):
        rank(np.zeros(0, int), np.zeros(0, int), np.zeros(0, int), ["a", "b"])
