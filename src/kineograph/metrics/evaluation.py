"""Evaluate clips: decode each once, feed every metric, report each number with protocol and error bar."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from kineograph.errors import InputError, KineographError
from kineograph.metrics import measures
from kineograph.metrics.choice import choose, fitted
from kineograph.metrics.clips import ClipSource, Record, Sampling, attach_prompts, fingerprint, list_clips
from kineograph.metrics.distributed import gather, share
from kineograph.metrics.extractors import EXTRACTORS, Extractors
from kineograph.metrics.features.clip import Clip
from kineograph.metrics.features.extractor import Extractor
from kineograph.metrics.features.lpips import Lpips
from kineograph.metrics.intervals import Estimate, mean_interval
from kineograph.metrics.manifold import neighbour_distance
from kineograph.metrics.measures import MEASURES, Measure
from kineograph.metrics.outcome import Evaluation, Failure
from kineograph.metrics.protocols import Published, published
from kineograph.metrics.score import Protocol, Score
from kineograph.metrics.store import Store
from kineograph.video import Video

Values = dict[str, Tensor]
REVISION = "1"
"""Changes when a per-clip measure changes, so that the store forgets the old values."""


@dataclass(frozen=True)
class Task:
    """One thing to compute from the frames of one clip.

    Attributes:
        key: Name in the store: the measure or the extractor's card.
        run: Maps frames (frames, 3, height, width), the rate, and the partner's frames or None to named tensors.
        paired: Whether it needs the reference clip of the same name.
    """

    key: str
    run: Callable[[Tensor, float, Tensor | None], Values]
    paired: bool = False


def evaluate(
    generated: ClipSource,
    reference: ClipSource | None = None,
    prompts: str | Path | Mapping[str, str] | Sequence[str] | None = None,
    *,
    metrics: Sequence[str] | None = None,
    protocol: str | None = None,
    num_frames: int | Literal["fitting"] | None = "fitting",
    stride: int = 1,
    window: str = "first",
    size: int | None = None,
    weights: Mapping[str, str | Path | Extractor | Clip | Lpips] | None = None,
    store: Path | None = None,
    level: float = 0.95,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Measure generated clips.

    Args:
        generated: A folder of videos, a manifest, paths or `Video`s, or pixels of shape (clips, frames, channels,
            height, width) in [-1, 1].
        reference: Real clips, for distances; of the same names, for aligned metrics.
        prompts: See `attach_prompts`; None asks the manifest and the files.
        metrics: Names of `MEASURES`, or `evalcrafter` for its suite; None takes all that can run, those of pairs only
            where every generated clip has a reference clip of its name, and EvalCrafter's only by that name.
        protocol: Name of a published protocol instead of metrics and frames.
        num_frames: Frames per clip; None takes all. Shorter clips are failures, not padded. `"fitting"` takes 16, or as
            many as nearly all clips have (`choice.fitted`), which notes and protocol then say.
        stride: Every how many frames.
        window: `"first"`, `"middle"` or `"random"` part of a longer clip.
        size: Scale clips to this side first; None keeps them.
        weights: Paths of official weights by extractor name, or extractors of your own.
        store: Folder in which features are kept; None keeps nothing.
        level: Nominal coverage of the error bars.
        seed: Of the random window.
        progress: Called with the number of clips done and of all.

    Returns:
        Scores, skipped metrics and failures. In a process group of torch.distributed every rank measures its share and
        every rank returns the whole.

    Raises:
        InputError: Unknown names, no clip measured, or a published protocol that cannot be kept.
    """
    plan = published(protocol) if protocol else None
    if plan and metrics:
        raise InputError(f"Give either metrics or a protocol: '{protocol}' measures {plan.measure}.")
    fit = plan is None and num_frames == "fitting"
    count = None if num_frames == "fitting" else num_frames
    sampling = plan.sampling if plan else Sampling(count, stride, window, seed, size)  # pyright: ignore[reportArgumentType]
    records = {"generated": attach_prompts(list_clips(generated, "generated clips"), prompts)}
    if reference is not None:
        records["reference"] = list_clips(reference, "reference clips")
    if plan and protocol:
        _check_counts(protocol, plan, records)
    extractors = Extractors(weights or {}, {MEASURES[plan.measure].extractor: plan.loader} if plan else {})
    sampling, notes = fitted(records, sampling) if fit else (sampling, ())
    wanted, skipped = choose([plan.measure] if plan else metrics, plan, records, sampling, extractors)
    run = _Run(records, sampling, extractors, wanted, Store(store), progress)
    if wanted:
        run.measure()
    return run.conclude(skipped, protocol, level, notes)


def _check_counts(name: str, plan: Published, records: dict[str, list[Record]]) -> None:
    """Refuse a published protocol with too few clips, and keep exactly as many as it says."""
    if plan.generated:
        given = len(records["generated"])
        if given < plan.generated:
            raise InputError(
                f"Protocol {name} needs {plan.generated} generated clips, given {given}. Repeating clips adds nothing. "
                f"Generate more, or measure without the protocol: --metrics {plan.measure}."
            )
        records["generated"] = records["generated"][: plan.generated]
    if plan.reference and "reference" in records:
        records["reference"] = records["reference"][: plan.reference]


class _Run:
    """One evaluation: the records, what is computed of each, and what was found."""

    def __init__(
        self,
        records: dict[str, list[Record]],
        sampling: Sampling,
        extractors: Extractors,
        wanted: dict[str, Measure],
        store: Store,
        progress: Callable[[int, int], None] | None,
    ):
        self.records, self.sampling, self.extractors = records, sampling, extractors
        self.wanted, self.store, self.progress = wanted, store, progress
        self.found: dict[str, dict[str, dict[str, Values]]] = {side: {} for side in records}
        self.identities: dict[str, dict[str, str]] = {side: {} for side in records}
        self.sizes: dict[str, tuple[int, int]] = {}
        self.failures: list[Failure] = []
        self.refused: dict[str, dict[str, dict[str, str]]] = {side: {} for side in records}
        self.decoded = 0

    def measure(self) -> None:
        """Go through this process's share of all clips once, then exchange what was found."""
        partners = {r.name: r for r in self.records.get("reference", [])}
        paired = any(m.family == "pairs" for m in self.wanted.values())
        queue = [("generated", r, partners.get(r.name) if paired else None) for r in self.records["generated"]]
        taken = {r.name for _, r, partner in queue if partner}
        queue += [("reference", r, None) for r in partners.values() if r.name not in taken]
        for done, (side, record, partner) in enumerate(share(queue)):
            self._attempt(side, record, partner)
            if self.progress:
                self.progress(done + 1, len(share(queue)))
        self._exchange()

    def _exchange(self) -> None:
        for part in gather((self.found, self.identities, self.failures, self.decoded, self.sizes, self.refused)):
            if part[0] is self.found:
                continue
            for side in self.records:
                self.found[side].update(part[0][side])
                self.identities[side].update(part[1][side])
            self.failures += part[2]
            self.decoded += part[3]
            self.sizes.update(part[4])
            for side, table in part[5].items():
                for key, reasons in table.items():
                    self.refused[side].setdefault(key, {}).update(reasons)

    def _attempt(self, side: str, record: Record, partner: Record | None) -> None:
        try:
            self._clip(side, record, partner)
        except (KineographError, OSError) as error:
            self.failures.append(Failure(side, record.name, str(error)))
        if partner and partner.name not in self.found["reference"]:
            try:
                self._clip("reference", partner, None)
            except (KineographError, OSError) as error:
                self.failures.append(Failure("reference", partner.name, str(error)))

    def _clip(self, side: str, record: Record, partner: Record | None) -> None:
        """Measure one clip, and its partner with it so that both are decoded once."""
        identity = record.identity()
        tasks = self._tasks(side)
        other = partner.identity() if partner else None
        address = lambda task: identity + (f"-{other[:16]}" if task.paired and other else "")
        place = lambda task: (task.key, self.sampling.key, address(task))
        results = {task.key: self.store.get(place(task)) for task in tasks}
        missing = [task for task in tasks if results[task.key] is None and not (task.paired and partner is None)]
        if missing:
            frames, fps = self._frames(record)
            against = None
            if partner and any(task.paired for task in missing):
                against, rate = self._frames(partner)
                self._keep("reference", partner, other or "", against, rate)
            for task in missing:
                results[task.key] = self._result(task, side, record.name, frames, fps, against)
                if results[task.key] is not None:
                    self.store.put(place(task), results[task.key] or {})
        self.found[side][record.name] = {key: value for key, value in results.items() if value is not None}
        self.identities[side][record.name] = identity

    def _keep(self, side: str, record: Record, identity: str, frames: Tensor, fps: float) -> None:
        results = {}
        for task in self._tasks(side):
            place = (task.key, self.sampling.key, identity)
            result = self.store.get(place) or self._result(task, side, record.name, frames, fps, None)
            if result is not None:
                results[task.key] = result
                self.store.put(place, result)
        self.found[side][record.name], self.identities[side][record.name] = results, identity

    def _result(
        self, task: Task, side: str, name: str, frames: Tensor, fps: float, against: Tensor | None
    ) -> Values | None:
        """Compute one thing of one clip, or note why it cannot be: the other things are computed all the same."""
        try:
            return task.run(frames, fps, against)
        except KineographError as error:
            self.refused[side].setdefault(task.key, {})[name] = str(error)
            return None

    def _frames(self, record: Record) -> tuple[Tensor, float]:
        """Decode a clip and take its frames, (frames, 3, height, width)."""
        video = record.load()
        self.decoded += 1
        if video.alpha:
            raise InputError(f"{record.name} has an alpha channel; flatten it first.")
        self.sizes[record.name] = (video.height, video.width)
        frames = video.frames[self.sampling.indices(len(video), record.name)]
        if not bool(torch.isfinite(frames).all()):
            raise InputError(f"{record.name} holds NaN or infinite pixels.")
        if self.sampling.size:
            frames = Video(frames, video.fps).resize(self.sampling.size, self.sampling.size).frames
        return frames, video.fps

    def _tasks(self, side: str) -> list[Task]:
        tasks: dict[str, Task] = {}
        for name, measure in self.wanted.items():
            if side == "reference" and (
                measure.family == "pairs" or not (measure.extractor and measure.needs_reference)
            ):
                continue
            task = self._task(name, measure)
            tasks[task.key] = task
        return list(tasks.values())

    def _task(self, name: str, measure: Measure) -> Task:
        if measure.family == "pairs" and measure.extractor:
            distance = self.extractors.distance(measure.extractor)
            compare = lambda a, fps, b: {"value": distance(a, b).mean()[None]}
            return Task(f"{name}-{REVISION}-{distance.card.key}", compare, paired=True)
        if measure.extractor:
            extractor, some = self.extractors.frames(measure.extractor), EXTRACTORS[measure.extractor].frames
            key = extractor.card.key + (f"-{some}" if some else "")
            return Task(key, lambda frames, fps, other: _features(extractor, frames, some))
        if measure.family == "pairs":
            facts = "-".join(str(v) for v in measure.options.values()).replace(" ", "").replace(",", "")
            run = lambda a, fps, b: {"value": torch.tensor([measures.pair_value(name, measure.options, a, b)])}
            return Task(f"{name}-{REVISION}-{facts}", run, paired=True)
        compute = measures.FRAME_VALUES[name]
        return Task(f"{name}-{REVISION}", lambda a, fps, b: {"value": torch.tensor([compute(a, fps)])})

    def conclude(
        self, skipped: dict[str, str], protocol: str | None, level: float, notes: tuple[str, ...] = ()
    ) -> Evaluation:
        """Turn what was found into scores."""
        names = {side: [r.name for r in rows if r.name in self.found[side]] for side, rows in self.records.items()}
        for side, kept in names.items():
            if self.wanted and not kept:
                reasons = [f.reason for f in self.failures if f.side == side]
                raise InputError(f"None of the {len(self.records[side])} {side} clips could be measured: {reasons[0]}")
        scores: dict[str, Score] = {}
        for name, measure in list(self.wanted.items()):
            try:
                for part, score in self._scores(
                    name, measure, self._taken(name, measure, names), protocol, level
                ).items():
                    scores[f"{name}-{part}" if part else name] = score
            except KineographError as error:
                skipped[name] = str(error)
                del self.wanted[name]
        failures = tuple(sorted(self.failures, key=lambda f: (f.side, f.clip, f.metric)))
        kept = (tuple(names["generated"]), tuple(names.get("reference", ())))
        notes = (*notes, *self._notes())
        return Evaluation(scores, skipped, failures, *kept, self.decoded, notes, self._clip_features(names))

    def _taken(self, name: str, measure: Measure, names: dict[str, list[str]]) -> dict[str, list[str]]:
        """Return the clips that a metric could take; those that it refused are failures of it.

        Raises:
            InputError: It refused all of a side.
        """
        key, taken = self._task(name, measure).key, dict(names)
        for side, kept in names.items():
            refused = self.refused[side].get(key, {})
            taken[side] = [clip for clip in kept if clip not in refused]
            if refused and not taken[side]:
                raise InputError(next(iter(refused.values())))
            self.failures += [Failure(side, clip, refused[clip], name) for clip in kept if clip in refused]
        return taken

    def _notes(self) -> tuple[str, ...]:
        sizes = sorted(set(self.sizes.values()))
        if len(sizes) < 2:
            return ()
        shown = ", ".join(f"{w}x{h}" for h, w in sizes[:4])
        return (f"The clips have {len(sizes)} sizes ({shown}): the smaller ones are scaled up, which blurs them.",)

    def _stack(self, measure: Measure, side: str, names: list[str]) -> tuple[Tensor, Tensor]:
        """Features of a side, (samples, dimensions), and the clip of each sample."""
        key = self._task("", measure).key
        rows = [self.found[side][name][key][measure.layer] for name in names]
        rows = [row if row.ndim == 2 else row[None] for row in rows]
        return torch.cat(rows), torch.cat([torch.full((len(row),), i) for i, row in enumerate(rows)])

    def _clip_features(self, names: dict[str, list[str]], everything: bool = False) -> dict[str, dict[str, Tensor]]:
        result = {}
        for measure in self.wanted.values():
            kinds = ("frechet", "mmd", "match") if everything else ("frechet", "mmd")
            if measure.family in kinds and measure.extractor not in result:
                key = self._task("", measure).key
                mean = lambda row: row if row.ndim == 1 else row.mean(0)
                result[measure.extractor] = {
                    side: torch.stack(
                        [mean(self.found[side][n][key][measure.layer]) for n in kept if key in self.found[side][n]]
                    )
                    for side, kept in names.items()
                }
        return result

    def _scores(
        self, name: str, measure: Measure, names: dict[str, list[str]], protocol: str | None, level: float
    ) -> dict[str, Score]:
        if measure.family in ("frechet", "mmd", "manifold", "inception"):
            return self._set_scores(measure, names, protocol, level)
        per_clip = self._per_clip(name, measure, names["generated"])
        if not per_clip:
            raise InputError(f"No clip has a value of {name}. Aligned metrics need reference clips of the same names.")
        values = torch.tensor(list(per_clip.values()), dtype=torch.float64)
        estimate = mean_interval(values, level=level)
        notes = () if len(values) > 1 else ("one clip: no error bar",)
        return {"": self._score(measure, measure.label, estimate, names, protocol, notes, per_clip)}

    def _set_scores(
        self, measure: Measure, names: dict[str, list[str]], protocol: str | None, level: float
    ) -> dict[str, Score]:
        x, x_clips = self._stack(measure, "generated", names["generated"])
        if measure.family == "inception":
            estimate = measures.estimate_inception(measure.options, x, x_clips, level)
            return {"": self._score(measure, measure.label, estimate, names, protocol, measures.warn(measure, x, None))}
        y, y_clips = self._stack(measure, "reference", names["reference"])
        if measure.family == "manifold":
            parts = measures.estimate_manifold(measure.options, x, y, level)
            label = lambda part: measure.label.replace("{part}", part)
            return {part: self._score(measure, label(part), e, names, protocol) for part, e in parts.items()}
        estimator = measures.estimate_frechet if measure.family == "frechet" else measures.estimate_mmd
        estimate = estimator(measure.options, x, y, (x_clips, y_clips), level)
        notes = measures.warn(measure, x, y)
        fx, fy = (self._clip_features(names)[measure.extractor][side] for side in ("generated", "reference"))
        realism = dict(zip(names["generated"], neighbour_distance(fx, fy).tolist(), strict=True))
        return {"": self._score(measure, measure.label, estimate, names, protocol, notes, realism)}

    def _per_clip(self, name: str, measure: Measure, clips: list[str]) -> dict[str, float]:
        key = self._task(name, measure).key
        rows = {clip: self.found["generated"][clip][key] for clip in clips if key in self.found["generated"][clip]}
        if measure.family == "consistency":
            return {clip: measures.consistency_value(measure.options, row[measure.layer]) for clip, row in rows.items()}
        if measure.family == "match":
            return self._matches(list(rows))
        if measure.family == "text":
            texts = self._texts(list(rows), measure.options.get("prefix", ""))
            value = lambda clip, row: measures.text_value(measure.options, row[measure.layer], texts[clip])
            return {clip: value(clip, row) for clip, row in rows.items()}
        return {clip: float(row["value"]) for clip, row in rows.items()}

    def _texts(self, clips: list[str], prefix: str) -> dict[str, Tensor]:
        prompts = {r.name: r.find_prompt() for r in self.records["generated"] if r.name in set(clips)}
        missing = [name for name, prompt in prompts.items() if not prompt]
        if missing:
            raise InputError(f"{len(missing)} clips have no prompt, such as '{missing[0]}': --prompts FILE.")
        encode = self.extractors.clip().text
        assert encode is not None
        embedded = encode([prefix + (prompts[c] or "") for c in clips])
        return dict(zip(clips, embedded, strict=True))

    def _matches(self, clips: list[str]) -> dict[str, float]:
        from kineograph.metrics.text_match import sentences, text_match

        features = self._clip_features({side: list(rows) for side, rows in self.found.items()}, everything=True)[
            "image"
        ]
        prompts = {
            side: {r.name: r.find_prompt() or "" for r in rows if r.name in self.found[side]}
            for side, rows in self.records.items()
        }
        empty = [f"{side} clip {name}" for side, table in prompts.items() for name, text in table.items() if not text]
        if empty:
            raise InputError(f"{len(empty)} clips have no prompt or caption, such as {empty[0]}.")
        texts = {side: sentences([prompts[side][name] for name in self.found[side]]) for side in self.found}
        values = text_match(features["generated"], texts["generated"], features["reference"], texts["reference"])
        table = dict(zip(self.found["generated"], values.tolist(), strict=True))
        return {clip: table[clip] for clip in clips}

    def _score(
        self,
        measure: Measure,
        label: str,
        estimate: Estimate,
        names: dict[str, list[str]],
        protocol: str | None,
        notes: Iterable[str] = (),
        per_clip: Mapping[str, float] | None = None,
    ) -> Score:
        facts: dict[str, Any] = {**self.sampling.facts(), **measure.options}
        if measure.extractor:
            card, some = self.extractors.card(measure.extractor), EXTRACTORS[measure.extractor].frames
            label = label.replace("{}", card.name)
            facts |= {"features": card.name, "weights": card.weights, "layer": measure.layer, "stand_in": card.standin}
            facts |= {"preparation": card.preparation} | ({"frames_used": some} if some else {})
        reference = len(names["reference"]) if measure.needs_reference else 0
        if measure.family in ("frechet", "inception", "manifold"):
            facts |= {"generated_clips": len(names["generated"])} | (
                {"reference_clips": reference} if reference else {}
            )
        data = fingerprint(self.identities["reference"].values()) if measure.needs_reference else None
        low, high, error = (measures.finite_or_none(v) for v in (estimate.low, estimate.high, estimate.stderr))
        return Score(
            estimate.value, Protocol(label, facts, protocol), low, high, error, estimate.level, estimate.method,
            len(names["generated"]), reference, data, measure.better, tuple(notes), dict(per_clip or {}),
        )  # fmt: skip


def _features(extractor: Extractor, frames: Tensor, some: int | None) -> Values:
    """Features of one clip: (frames, dimensions) or (dimensions,) per layer."""
    if some and len(frames) > some:
        frames = frames[torch.linspace(0, len(frames) - 1, some).round().long()]
    return {layer: value[0].contiguous() for layer, value in extractor(frames[None]).items()}


def undefined(x: float | None) -> bool:
    """Whether a number is missing."""
    return x is None or math.isnan(x)
