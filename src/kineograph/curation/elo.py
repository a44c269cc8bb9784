"""From votes on pairs to a ranking: Elo as Stable Video Diffusion computed it, and Bradley-Terry with intervals.

SVD's "bootstrap" (Blattmann et al. 2023, arXiv:2311.15127, app. E.1) shuffles the order of the votes; that removes the
dependence of Elo on the order, and says nothing about how many votes were asked for. Its spread is several times
smaller than the sampling error, and K = 1 shrinks all gaps. So `elo` is here to compare with the paper, and
`bradley_terry` with `prompt_bootstrap` (prompts drawn with replacement, because votes on one prompt are not
independent) is what a conclusion should rest on.

Both are in Elo units: 400 points are odds of 10 to 1. Votes are integer arrays of winners and losers.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from kineograph.errors import DataError, InputError

START = 1000.0
"""Rating before any vote (SVD, app. E.1: R0 = 1000)."""
K_FACTOR = 1.0
"""Points at stake in a vote (SVD, app. E.1: K = 1)."""
ORDERS = 1000
"""Random orders averaged over (SVD, app. E.1)."""
SCALE = 400 / np.log(10)
"""Elo points per unit of log odds."""
PRIOR_SD = 2000.0
"""Elo points: width of the normal prior in resamples, which keeps a model that lost all its votes finite. Against a
hundred votes its weight is below 0.1 %."""
FEWEST_PROMPTS = 10
"""Prompts below which no winner is named: a bootstrap over a few prompts cannot see what it never drew."""
PSEUDO_VOTES = 0.5
"""Votes added each way to every pair that was compared, for the intervals by information (Haldane 1956)."""


def elo(
    winners: np.ndarray,
    losers: np.ndarray,
    models: int,
    *,
    start: float = START,
    k: float = K_FACTOR,
    orders: int = ORDERS,
    seed: int = 0,
) -> np.ndarray:
    """Mean Elo rating over random orders of the votes (SVD, arXiv:2311.15127, app. E.1, eqs. 6 and 7).

    Each vote moves both ratings by K (1 - E), E = 1 / (1 + 10^((R_loser - R_winner) / 400)).

    Args:
        winners: Index of the model that won, shape (votes,).
        losers: Index of the one that lost, shape (votes,).
        models: Number of models.
        start: First rating of every model.
        k: Points at stake.
        orders: Number of shuffles.
        seed: Of the shuffles.

    Returns:
        Ratings, shape (models,); their mean is `start`.

    Raises:
        InputError: The arrays do not fit each other, or a model is voted against itself.
    """
    winners, losers = _checked(winners, losers, models)
    order = np.random.default_rng(seed).permuted(np.tile(np.arange(len(winners)), (orders, 1)), axis=1)
    return elo_in_orders(winners, losers, models, order, start, k).mean(0)


def elo_in_orders(
    winners: np.ndarray, losers: np.ndarray, models: int, order: np.ndarray, start: float = START, k: float = K_FACTOR
) -> np.ndarray:
    """Elo ratings after counting the votes in given orders, all orders side by side.

    Args:
        winners: As in `elo`.
        losers: As in `elo`.
        models: Number of models.
        order: Permutations of the votes, shape (orders, votes).
        start: First rating.
        k: Points at stake.

    Returns:
        Shape (orders, models).
    """
    ratings = np.full((len(order), models), start)
    rows = np.arange(len(order))
    for vote in order.T:
        won, lost = winners[vote], losers[vote]
        stake = k * (1 - 1 / (1 + 10 ** ((ratings[rows, lost] - ratings[rows, won]) / 400)))
        ratings[rows, won] += stake
        ratings[rows, lost] -= stake
    return ratings


def win_counts(winners: np.ndarray, losers: np.ndarray, models: int) -> np.ndarray:
    """Count how often each model beat each other one, shape (models, models): row beat column."""
    winners, losers = _checked(winners, losers, models)
    counts = np.zeros((models, models))
    np.add.at(counts, (winners, losers), 1)
    return counts


def bradley_terry(wins: np.ndarray, *, prior_sd: float | None = None) -> np.ndarray:
    """Maximum-likelihood strengths of Bradley and Terry (1952, Biometrika 39), by Newton's method.

    Args:
        wins: Row beat column so many times, shape (..., models, models); several tables are solved side by side.
        prior_sd: Width in Elo points of a normal prior on each strength; None is pure maximum likelihood.

    Returns:
        Ratings in Elo units, shape (..., models), each set with mean `START`.

    Raises:
        DataError: Without a prior, no finite maximum exists (Ford 1957): some models never lost to the others.
    """
    wins = np.asarray(wins, np.float64)
    if prior_sd is None:
        for table in wins.reshape(-1, *wins.shape[-2:]):
            _require_connected(table)
    ridge = 1e-12 if prior_sd is None else (SCALE / prior_sd) ** 2
    strengths = np.zeros(wins.shape[:-1])
    for _ in range(60):
        step = _newton_step(wins, strengths, ridge)
        strengths += np.clip(step, -2.0, 2.0)
        if np.abs(step).max(initial=0.0) < 1e-12:
            break
    strengths -= strengths.mean(-1, keepdims=True)
    return START + SCALE * strengths


def _newton_step(wins: np.ndarray, strengths: np.ndarray, ridge: float) -> np.ndarray:
    """One step up the (penalised) log likelihood; the ridge also fixes the free mean."""
    games = wins + np.swapaxes(wins, -1, -2)
    expected = 1 / (1 + np.exp(strengths[..., None, :] - strengths[..., :, None]))
    gradient = (wins - games * expected).sum(-1) - ridge * strengths
    models = strengths.shape[-1]
    curvature = _information(games * expected * (1 - expected)) + ridge * np.eye(models) + 1 / models
    return np.linalg.solve(curvature, gradient[..., None])[..., 0]


def _information(weight: np.ndarray) -> np.ndarray:
    """Observed information on the strengths from the weight of each pair, shape (..., models, models)."""
    return weight.sum(-1)[..., None] * np.eye(weight.shape[-1]) - weight


def information_interval(wins: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Intervals from the curvature of the likelihood, for votes too few or too unanimous for a bootstrap.

    Half a vote is added each way to every pair that was compared, so that a model that won all its votes has a wide
    interval and not an empty one.

    Args:
        wins: Row beat column so many times, shape (models, models).
        confidence: Of the two-sided intervals.

    Returns:
        Lower and upper ends in Elo units, shape (models,) each.
    """
    smoothed = wins + PSEUDO_VOTES * ((wins + wins.T) > 0)
    ratings = bradley_terry(smoothed, prior_sd=PRIOR_SD)
    chance = 1 / (1 + 10 ** ((ratings[None, :] - ratings[:, None]) / 400))
    weight = (smoothed + smoothed.T) * chance * (1 - chance)
    ridge = (SCALE / PRIOR_SD) ** 2 * np.eye(len(wins))
    centred = np.eye(len(wins)) - 1 / len(wins)
    spread = SCALE * np.sqrt(np.diag(centred @ np.linalg.inv(_information(weight) + ridge + 1 / len(wins)) @ centred))
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * spread
    return ratings - reach, ratings + reach


def _require_connected(wins: np.ndarray) -> None:
    """Demand that every model can be reached from every other one along wins."""
    reach = (wins > 0) | np.eye(len(wins), dtype=bool)
    for middle in range(len(wins)):
        reach |= reach[:, middle : middle + 1] & reach[middle : middle + 1]
    if not reach.all():
        first, second = (int(i) for i in np.argwhere(~reach)[0])
        raise DataError(
            f"No finite Bradley-Terry ratings exist: model {first} never won against model {second}, nor against one "
            f"that did. Ask for more votes, or give prior_sd."
        )


@dataclass(frozen=True)
class Standing:
    """What the votes say about one model.

    Attributes:
        model: Its name.
        elo: Rating as in the paper, `elo`.
        rating: Bradley-Terry, in the same units.
        low: Lower end of the rating's interval.
        high: Its upper end.
        wins: Votes for it.
        votes: Votes on it.
    """

    model: str
    elo: float
    rating: float
    low: float
    high: float
    wins: int
    votes: int


@dataclass(frozen=True)
class Ranking:
    """Models from best to worst by Bradley-Terry rating.

    Attributes:
        standings: One per model.
        winner: Name of the best one if its interval lies wholly above all others, else None.
        why: The sentence that says so.
        votes: Votes counted.
        prompts: Prompts they were about.
        confidence: Of the intervals.
    """

    standings: list[Standing]
    winner: str | None
    why: str
    votes: int
    prompts: int
    confidence: float


def prompt_bootstrap(
    winners: np.ndarray, losers: np.ndarray, prompts: np.ndarray, models: int, *, resamples: int = 1000, seed: int = 0
) -> np.ndarray:
    """Bradley-Terry ratings of vote sets in which whole prompts are drawn with replacement.

    Args:
        winners: As in `elo`.
        losers: As in `elo`.
        prompts: What each vote was about, any integers, shape (votes,).
        models: Number of models.
        resamples: Number of vote sets.
        seed: Of the draws.

    Returns:
        Shape (resamples, models).
    """
    winners, losers = _checked(winners, losers, models)
    names, index = np.unique(prompts, return_inverse=True)
    tables = np.zeros((len(names), models, models))
    np.add.at(tables, (index, winners, losers), 1)
    draws = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), resamples)
    return bradley_terry(np.einsum("rp,pij->rij", draws.astype(float), tables), prior_sd=PRIOR_SD)


def rank(
    winners: np.ndarray,
    losers: np.ndarray,
    prompts: np.ndarray,
    names: list[str],
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Ranking:
    """Rank models, and name a winner only if its interval overlaps no other.

    Args:
        winners: As in `elo`.
        losers: As in `elo`.
        prompts: As in `prompt_bootstrap`.
        names: The models' names.
        confidence: Of the two-sided intervals: the hull of the bootstrap's percentiles and `information_interval`.
        resamples: Of the bootstrap.
        seed: Of shuffles and bootstrap.

    Raises:
        DataError: There is no vote, or fewer than two models.
    """
    winners, losers = _checked(winners, losers, len(names))
    if len(names) < 2 or not len(winners):
        raise DataError(f"A ranking needs at least two models and one vote, not {len(names)} and {len(winners)}.")
    counts = win_counts(winners, losers, len(names))
    ratings = bradley_terry(counts, prior_sd=PRIOR_SD)
    paper = elo(winners, losers, len(names), seed=seed)
    samples = prompt_bootstrap(winners, losers, prompts, len(names), resamples=resamples, seed=seed)
    low, high = np.quantile(samples, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    lowest, highest = information_interval(counts, confidence)
    low, high = np.minimum(low, lowest), np.maximum(high, highest)
    standings = [
        Standing(name, float(paper[i]), float(ratings[i]), float(low[i]), float(high[i]), int(won), int(won + lost))
        for i, (name, won, lost) in enumerate(zip(names, counts.sum(1), counts.sum(0), strict=True))
    ]
    standings.sort(key=lambda one: (-one.rating, one.model))
    asked = len(np.unique(prompts))
    winner, why = _verdict(standings, confidence, asked)
    return Ranking(standings, winner, why, len(winners), asked, confidence)


def _verdict(standings: list[Standing], confidence: float, prompts: int) -> tuple[str | None, str]:
    if prompts < FEWEST_PROMPTS:
        return None, f"No winner: {prompts} prompts say nothing about others. Vote on at least {FEWEST_PROMPTS}."
    best, rest = standings[0], standings[1:]
    rivals = [one for one in rest if one.high >= best.low]
    if not rivals:
        return best.model, f"'{best.model}' is best: its {confidence:.0%} interval lies above all others."
    names = ", ".join(f"'{one.model}' ({one.low:.0f} to {one.high:.0f})" for one in rivals)
    return None, (
        f"No winner: the {confidence:.0%} interval of '{best.model}' ({best.low:.0f} to {best.high:.0f}) overlaps that "
        f"of {names}. More prompts would tell them apart, more votes on the same prompts much less."
    )


def _checked(winners: np.ndarray, losers: np.ndarray, models: int) -> tuple[np.ndarray, np.ndarray]:
    winners, losers = np.asarray(winners, np.int64), np.asarray(losers, np.int64)
    if winners.shape != losers.shape or winners.ndim != 1:
        raise InputError(f"winners and losers must be two vectors of one length, not {winners.shape}, {losers.shape}.")
    both = np.concatenate([winners, losers])
    if both.size and (both.min() < 0 or both.max() >= models):
        raise InputError(f"The votes name model {both.max()}, but there are {models}, counted from 0.")
    if (winners == losers).any():
        raise InputError("A vote is between two different models.")
    return winners, losers
