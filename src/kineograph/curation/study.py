"""The preference study that chooses thresholds: subsets per axis, clips of a model trained on each, votes, a ranking.

As in Stable Video Diffusion (Blattmann et al. 2023, arXiv:2311.15127, sec. 3.3, app. E.1 and E.2.2): one axis at a
time, the bottom 0, 12.5, 25 and 50 % are dropped; the same model is trained on each subset; the models make a clip per
prompt (64 there); people see all pairs on all prompts, about three votes each, on two criteria. Order of questions and
sides is random, and attention checks with a known answer are mixed in.

A study is a folder:

    study.json                  what is asked: models, prompts, criteria, votes wanted, seed
    subsets/<axis>-<share>.json the selection a model is trained on (also a selection of the output folder)
    votes.jsonl                 one line per answer, appended and flushed; several people may vote at once

Models' clips lie anywhere, as `<folder>/<prompt number, four digits>.mp4`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kineograph._encode import X264_OPTIONS
from kineograph._text import parse_json, read_json, read_text
from kineograph.curation import select
from kineograph.curation.elo import Ranking, rank
from kineograph.curation.parts import place_text
from kineograph.errors import DataError, InputError, unknown

STUDY, VOTES = "study.json", "votes.jsonl"
SHARES = (0.0, 12.5, 25.0, 50.0)
"""Percent dropped per subset (SVD, app. E.2.2)."""
CRITERIA = ("visual quality", "prompt following")
"""What people compare by (SVD, app. E.1)."""
VOTES_PER_QUESTION = 3
"""Votes on each pair, prompt and criterion (SVD, app. E.1: about three)."""
CHECK_EVERY = 10
"""One attention check in so many questions."""
CHECKS_PASSED = 0.8
"""Share of attention checks that a voter must pass to be counted."""
DROP_HIGHEST = frozenset({"text_area", "overlay"})
"""Axes on which much is bad, so that the top is dropped and not the bottom."""
Choice = Literal["left", "right", "quit"]


@dataclass(frozen=True)
class Question:
    """Two clips side by side.

    Attributes:
        criterion: What to compare by.
        prompt: Number of the prompt.
        text: The prompt.
        left: Name of the model on the left.
        right: Name of the model on the right.
        left_file: Its clip.
        right_file: The other's clip.
        check: For an attention check, the side that is right; empty for a real question.
        number: Position in the session, from 1.
        of: Questions in the session.
    """

    criterion: str
    prompt: int
    text: str
    left: str
    right: str
    left_file: Path
    right_file: Path
    check: str = ""
    number: int = 0
    of: int = 0


@dataclass(frozen=True)
class Vote:
    """One answer.

    Attributes:
        voter: Who.
        criterion: Of the question.
        prompt: Number of the prompt.
        left: Model on the left.
        right: Model on the right.
        choice: `"left"` or `"right"`.
        check: For an attention check, the side that is right.
        at: Seconds since 1970.
    """

    voter: str
    criterion: str
    prompt: int
    left: str
    right: str
    choice: str
    check: str = ""
    at: float = 0.0

    @property
    def winner(self) -> str:
        """The model chosen."""
        return self.left if self.choice == "left" else self.right

    @property
    def loser(self) -> str:
        """The model not chosen."""
        return self.right if self.choice == "left" else self.left


@dataclass(frozen=True)
class Study:
    """What is asked.

    Attributes:
        name: Of the study.
        models: Folder with clips, by model name.
        prompts: Texts, in the order of the clips' numbers.
        criteria: What is compared by.
        votes_per_question: Votes wanted on each pair, prompt and criterion.
        seed: Of all random order.
    """

    name: str
    models: dict[str, str]
    prompts: list[str]
    criteria: list[str] = field(default_factory=lambda: list(CRITERIA))
    votes_per_question: int = VOTES_PER_QUESTION
    seed: int = 0

    @property
    def votes_wanted(self) -> int:
        """Votes for the whole study: pairs x prompts x criteria x votes each."""
        pairs = len(self.models) * (len(self.models) - 1) // 2
        return pairs * len(self.prompts) * len(self.criteria) * self.votes_per_question

    def clip(self, model: str, prompt: int) -> Path:
        """Return where a model's clip of a prompt lies."""
        return Path(self.models[model]) / f"{prompt:04d}.mp4"


# Subsets -----------------------------------------------------------------------------------------------------------


def subsets(out: str | Path, folder: str | Path, axis: str, shares: Sequence[float] = SHARES) -> list[select.Selection]:
    """Make the subsets of one axis: selections that drop a rising share of the worst clips.

    Each is stored in the output folder as a selection `study-<axis>-<share>`, for export and training, and in the study
    folder.

    Args:
        out: Folder that `kineograph curate` wrote.
        folder: The study's folder.
        axis: Column of the catalogue; the lowest are dropped, or the highest of `DROP_HIGHEST`.
        shares: Percent to drop, each from 0 to below 100.
    """
    made = []
    for share in shares:
        rule = f"{axis}<=p{100 - share:g}" if axis in DROP_HIGHEST else f"{axis}>=p{share:g}"
        selection = select.run(out, [rule], f"study-{axis}-{share:g}")
        place_text(
            Path(folder) / "subsets" / f"{axis}-{share:g}.json", json.dumps(selection.to_json(), indent=2) + "\n"
        )
        made.append(selection)
    return made


# The study ---------------------------------------------------------------------------------------------------------


def create(
    folder: str | Path,
    models: Mapping[str, str | Path],
    prompts: Sequence[str],
    *,
    name: str = "",
    criteria: Sequence[str] = CRITERIA,
    votes_per_question: int = VOTES_PER_QUESTION,
    seed: int = 0,
) -> Study:
    """Set up a study over models whose clips are there.

    Args:
        folder: To make; it must hold no study yet.
        models: Folder with clips `0000.mp4`, `0001.mp4`, ... by model name.
        prompts: One per clip.
        name: Of the study; empty takes the folder's.
        criteria: What to compare by.
        votes_per_question: Votes wanted on each pair, prompt and criterion.
        seed: Of all random order.

    Raises:
        InputError: Fewer than two models, no prompt, or the folder holds a study.
        DataError: A clip is missing.
    """
    folder = Path(folder)
    if (folder / STUDY).exists():
        raise InputError(f"'{folder}' holds a study already; votes belong to it. Choose another folder.")
    if len(models) < 2 or not prompts or not criteria or votes_per_question < 1:
        raise InputError("A study needs at least two models, one prompt, one criterion and one vote per question.")
    places = {model: str(Path(place).resolve()) for model, place in models.items()}
    study = Study(name or folder.name, places, list(prompts), list(criteria), votes_per_question, seed)
    missing = [file for model in models for i in range(len(prompts)) if not (file := study.clip(model, i)).is_file()]
    if missing:
        raise DataError(f"{len(missing)} clips are missing, such as '{missing[0]}'. A model's clips are 0000.mp4, ...")
    place_text(folder / STUDY, json.dumps(asdict(study), indent=2, ensure_ascii=False) + "\n")
    return study


def load(folder: str | Path) -> Study:
    """Read a study.

    Raises:
        DataError: There is none.
    """
    file = Path(folder) / STUDY
    if not file.is_file():
        raise DataError(f"There is no study in '{folder}' (no {STUDY}).")
    try:
        return Study(**read_json(file))
    except TypeError as error:
        raise DataError(f"'{file}' is not a study: {error}.") from error


def read_votes(folder: str | Path) -> list[Vote]:
    """Read all votes. A last line cut short by a crash is left out; the vote behind it was never confirmed.

    Raises:
        DataError: Another line is damaged, or names what the study does not have.
    """
    study, file = load(folder), Path(folder) / VOTES
    if not file.is_file():
        return []
    *lines, last = read_text(file).split("\n")
    votes = []
    for number, line in enumerate([*lines, last] if _complete(last) else lines, 1):
        if not line:
            continue
        try:
            vote = Vote(**parse_json(line, str(file), line=number))
        except TypeError as error:
            raise DataError(f"{file}:{number}: no vote: {error}.") from error
        if not _fits(vote, study):
            raise DataError(f"{file}:{number}: the vote does not belong to this study: {line[:200]}")
        votes.append(vote)
    return votes


def _complete(line: str) -> bool:
    try:
        json.loads(line)
    except json.JSONDecodeError:
        return False
    return True


def _fits(vote: Vote, study: Study) -> bool:
    known = vote.check or {vote.left, vote.right} <= set(study.models)
    right = vote.choice in ("left", "right") and vote.criterion in study.criteria
    return bool(known and right and 0 <= vote.prompt < len(study.prompts))


# Voting ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Session:
    """What a voter did in one sitting.

    Attributes:
        voter: Who.
        votes: Real questions answered.
        checks: Attention checks answered.
        passed: Of these, rightly.
        left_over: Votes that the study still wants, of all voters.
    """

    voter: str
    votes: int
    checks: int
    passed: int
    left_over: int

    def to_json(self) -> dict[str, Any]:
        """Give the session as plain JSON values."""
        return asdict(self)


def vote_session(
    folder: str | Path,
    voter: str,
    ask: Callable[[Question], Choice],
    criterion: str | None = None,
    limit: int | None = None,
) -> Session:
    """Ask one person, and store each answer at once.

    A voter sees a pair on a prompt once per criterion; questions with fewest votes come first, otherwise the order and
    the sides are random, differently for every voter. A session can be left and taken up at any time.

    Args:
        folder: The study's folder.
        voter: Name of the person, on which order and sides depend.
        ask: Shows a question and returns `"left"`, `"right"` or `"quit"`.
        criterion: Only this one; None asks for all, one after the other.
        limit: At most this many real questions; None asks all that are wanted.

    Raises:
        InputError: The criterion is not the study's, the voter has no name, or `ask` returns another word.
    """
    study, folder = load(folder), Path(folder)
    if criterion is not None and criterion not in study.criteria:
        raise unknown("criterion", criterion, study.criteria)
    if not voter.strip():
        raise InputError("A voter needs a name, so that nobody is asked the same twice.")
    counts = Counter[str]()
    for question in questions(study, folder, voter, criterion, limit):
        answer = ask(question)
        if answer == "quit":
            break
        if answer not in ("left", "right"):
            raise unknown("answer", answer, ("left", "right", "quit"))
        vote = Vote(
            voter,
            question.criterion,
            question.prompt,
            question.left,
            question.right,
            answer,
            question.check,
            time.time(),
        )
        _append(folder / VOTES, vote)
        counts.update(["check" if question.check else "vote", "passed" if answer == question.check else "-"])
    return Session(voter, counts["vote"], counts["check"], counts["passed"], votes_left(study, read_votes(folder)))


def votes_left(study: Study, votes: Sequence[Vote]) -> int:
    """Count the votes that are still wanted, those of inattentive voters not counting."""
    have = Counter(map(_subject, counted(votes)))
    return sum(max(0, study.votes_per_question - have[subject]) for subject in _subjects(study))


def questions(
    study: Study, folder: Path, voter: str, criterion: str | None = None, limit: int | None = None
) -> Iterator[Question]:
    """Yield what a voter is asked next, attention checks among it; see `vote_session`."""
    votes = read_votes(folder)
    mine = {_subject(vote) for vote in votes if vote.voter == voter and not vote.check}
    have = Counter(map(_subject, counted(votes)))
    open_ = [
        one
        for one in _subjects(study)
        if one not in mine and have[one] < study.votes_per_question and criterion in (None, one[0])
    ]
    random = np.random.default_rng(_seed(study.seed, voter, len(votes)))
    shuffled = [open_[i] for i in random.permutation(len(open_))]
    shuffled.sort(key=lambda one: (study.criteria.index(one[0]), have[one]))
    shuffled = shuffled[:limit]
    checks = range(CHECK_EVERY // 2, len(shuffled), CHECK_EVERY)
    total, number = len(shuffled) + len(checks), 0
    for i, subject in enumerate(shuffled):
        if i in checks:
            number += 1
            yield _check(study, folder, subject, bool(random.integers(2)), number, total)
        number += 1
        yield _question(study, subject, bool(random.integers(2)), number, total)


Subject = tuple[str, int, str, str]


def _subjects(study: Study) -> list[Subject]:
    """List all `(criterion, prompt, model, model)` that are voted on."""
    return [
        (criterion, prompt, *pair)
        for criterion in study.criteria
        for prompt in range(len(study.prompts))
        for pair in combinations(sorted(study.models), 2)
    ]


def _subject(vote: Vote) -> Subject:
    first, second = sorted((vote.left, vote.right))
    return vote.criterion, vote.prompt, first, second


def _question(study: Study, subject: Subject, swap: bool, number: int, total: int) -> Question:
    criterion, prompt, *pair = subject
    left, right = reversed(pair) if swap else pair
    files = study.clip(left, prompt), study.clip(right, prompt)
    return Question(criterion, prompt, study.prompts[prompt], left, right, *files, "", number, total)


def _check(study: Study, folder: Path, subject: Subject, swap: bool, number: int, total: int) -> Question:
    """Ask about a model's clip beside noise, whatever the criterion: everyone who looks knows the answer."""
    criterion, prompt, model, _ = subject
    noise, clip = _noise(folder), study.clip(model, prompt)
    sides = ("check", model, noise, clip, "right") if swap else (model, "check", clip, noise, "left")
    left, right, left_file, right_file, answer = sides
    return Question(criterion, prompt, study.prompts[prompt], left, right, left_file, right_file, answer, number, total)


def _noise(folder: Path) -> Path:
    """Return a clip of noise, made on first use."""
    file = folder / "check.mp4"
    if not file.is_file():
        import av

        part = folder / f".check.{os.getpid()}.mp4"
        random = np.random.default_rng(0)
        with av.open(str(part), "w", format="mp4") as container:
            stream = container.add_stream("libx264", 8, options={"crf": "30", **X264_OPTIONS})
            stream.width, stream.height, stream.pix_fmt = 128, 128, "yuv420p"
            for _ in range(8):
                pixels = random.integers(0, 256, (16, 16, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
        part.replace(file)
    return file


def _append(file: Path, vote: Vote) -> None:
    """Add a line, whole and flushed, whoever else is voting; a cut-off last line is closed first."""
    with file.open("ab+") as out:
        fcntl.flock(out, fcntl.LOCK_EX)
        end = out.seek(0, os.SEEK_END)
        if end:
            out.seek(end - 1)
            if out.read(1) != b"\n":
                _cut_to_last_line(out, end)
        out.write(json.dumps(asdict(vote), ensure_ascii=False).encode() + b"\n")
        out.flush()
        os.fsync(out.fileno())


def _cut_to_last_line(out: Any, end: int) -> None:
    """Remove an unfinished last line, or finish it if it is whole but for its line break."""
    out.seek(0)
    data = out.read(end)
    whole = data.rfind(b"\n") + 1
    if _complete(data[whole:].decode("utf-8", "replace")):
        out.write(b"\n")
    else:
        out.truncate(whole)
    out.seek(0, os.SEEK_END)


def ask_in_terminal(question: Question, read: Callable[[str], str] = input) -> Choice:
    """Ask in a terminal: show both files' places, and read `l`, `r` or `q`.

    Args:
        question: What to ask. Models' names are not shown; the files are shown through neutral links.
        read: Reads a line after showing a text.
    """
    links = _neutral_links(question)
    text = (
        f"\n{question.number} of {question.of} - {question.criterion}: {question.text}\n"
        f"  left:  {links[0]}\n  right: {links[1]}\nWhich is better? [l]eft, [r]ight, [q]uit: "
    )
    words: dict[str, Choice] = {
        "l": "left",
        "r": "right",
        "q": "quit",
        "left": "left",
        "right": "right",
        "quit": "quit",
    }
    while True:
        try:
            answer = words.get(read(text).strip().lower())
        except EOFError:
            return "quit"
        if answer:
            return answer
        text = "Type l, r or q: "


def _neutral_links(question: Question) -> tuple[Path, Path]:
    """Link both clips under names that tell nothing about the model."""
    import tempfile

    folder = Path(tempfile.gettempdir()) / f"kineograph-vote-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    links = folder / "left.mp4", folder / "right.mp4"
    for link, file in zip(links, (question.left_file, question.right_file), strict=True):
        link.unlink(missing_ok=True)
        link.symlink_to(file)
    return links


# Results -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Results:
    """What the votes say.

    Attributes:
        rankings: By criterion; a criterion without votes is absent.
        votes: Votes counted.
        left_out: Votes of inattentive voters, not counted.
        voters: Share of attention checks passed, by voter; None without checks.
        votes_wanted: Votes that the whole study asks for.
        both: A ranking over all criteria together, every vote counting alike; None without votes.
    """

    rankings: dict[str, Ranking]
    votes: int
    left_out: int
    voters: dict[str, float | None]
    votes_wanted: int
    both: Ranking | None

    def to_json(self) -> dict[str, Any]:
        """Give the results as plain JSON values."""
        return asdict(self)

    def summary(self) -> str:
        """Give the results in words: a table per criterion and its verdict."""
        lines = [f"{self.votes} of {self.votes_wanted} votes; {self.left_out} left out (attention checks failed)"]
        tables = {**self.rankings, **({"all criteria": self.both} if self.both and len(self.rankings) > 1 else {})}
        for criterion, ranking in tables.items():
            lines.append(f"\n{criterion} ({ranking.votes} votes on {ranking.prompts} prompts)")
            lines.append(
                f"  {'model':20} {'Bradley-Terry':>13}  {f'{ranking.confidence:.0%} interval':>14}  {'Elo, as SVD':>11}"
            )
            for one in ranking.standings:
                interval = f"{one.low:.0f} to {one.high:.0f}"
                lines.append(f"  {one.model:20} {one.rating:13.0f}  {interval:>14}  {one.elo:11.1f}")
            lines.append(f"  {ranking.why}")
        return "\n".join(lines)


def counted(votes: Sequence[Vote]) -> list[Vote]:
    """Return the votes on real questions by voters who passed their attention checks."""
    shares = attention(votes)
    return [vote for vote in votes if not vote.check and _attentive(shares[vote.voter])]


def attention(votes: Sequence[Vote]) -> dict[str, float | None]:
    """Return the share of attention checks that each voter passed; None for voters without any."""
    checks: dict[str, list[bool]] = {vote.voter: [] for vote in votes}
    for vote in votes:
        if vote.check:
            checks[vote.voter].append(vote.choice == vote.check)
    return {voter: sum(passed) / len(passed) if passed else None for voter, passed in checks.items()}


def _attentive(share: float | None) -> bool:
    return share is None or share >= CHECKS_PASSED


def results(folder: str | Path, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0) -> Results:
    """Rank the models by the votes, per criterion.

    Args:
        folder: The study's folder.
        confidence: Of the intervals.
        resamples: Of the bootstrap over prompts.
        seed: Of shuffles and bootstrap.

    Raises:
        DataError: There are no votes that count.
    """
    study, votes = load(folder), read_votes(folder)
    use = counted(votes)
    if not use:
        raise DataError(f"'{folder}' holds no vote that counts. Vote with: kineograph curate vote.")
    names = list(study.models)

    def ranked(some: Sequence[Vote]) -> Ranking:
        won, lost = (np.array([names.index(getattr(v, side)) for v in some]) for side in ("winner", "loser"))
        prompts = np.array([vote.prompt for vote in some])
        return rank(won, lost, prompts, names, confidence=confidence, resamples=resamples, seed=seed)

    by_criterion = {c: [vote for vote in use if vote.criterion == c] for c in study.criteria}
    rankings = {criterion: ranked(some) for criterion, some in by_criterion.items() if some}
    left_out = sum(not vote.check for vote in votes) - len(use)
    return Results(rankings, len(use), left_out, attention(votes), study.votes_wanted, ranked(use))


def _seed(*parts: object) -> int:
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big")
