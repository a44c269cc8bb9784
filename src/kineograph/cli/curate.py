"""`kineograph curate`: from raw footage to clips with scores, a selection, a study, an export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, UseAppendAction, arg, subcommand

from kineograph.cli._output import emit, progress, say

DEFAULT_VERB = "run"
"""`kineograph curate RAW` means `kineograph curate run RAW`."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Cut films into clips, score them, write a manifest (RAW -o OUT).

    Finds cuts in one decode, copies each shot where that loses little and encodes it elsewhere, measures motion and
    text, and writes `OUT/manifest.jsonl`, which `kineograph train --data OUT` reads. Every file is accounted for: ok,
    filtered or failed; and every second: in a clip, or lost for a reason. A run that was interrupted goes on with
    --resume and ends in the same bytes.
    """

    raw: Annotated[Positional[Path], arg(metavar="RAW")]
    """Folder of films, one film, or a list (WebVid CSV, HD-VILA JSON lines, Panda-70M or Koala-36M CSV)."""

    output: Annotated[Path, arg(aliases=("-o",), metavar="OUT")]
    """Folder for clips, scores and manifest; made where it is missing."""

    config: Annotated[Path | None, arg(metavar="FILE")] = None
    """JSON file with parameters; what it leaves out keeps its default (default: all defaults)."""

    resume: bool = False
    """Go on in a folder that holds results; only what is missing or has other parameters is computed."""

    overwrite: bool = False
    """Start anew in a folder that holds the results of a run, which are deleted, or another data set, which is set
    aside in OUT/replaced-1."""

    retry: bool = False
    """With --resume, try films again that timed out, ran out of memory or crashed; other failures would come again."""

    executor: Literal["local", "ray", "inline"] = "local"
    """Where films are worked on: supervised children here, the same on a Ray cluster, or this process."""

    workers: Annotated[int | None, arg(metavar="N")] = None
    """Films worked on side by side (default: one per processor)."""

    media: Annotated[Path | None, arg(metavar="DIR")] = None
    """Where the films of a list are (default: the folder of the list)."""

    licence: Annotated[str | None, arg(metavar="TEXT")] = None
    """Licence of the footage, written beside every clip (default: the configuration's)."""

    captions: Annotated[tuple[str, ...], arg(metavar="WORD")] = ()
    """Captioners, in order (default: the configuration's; without any, only NAME.txt beside NAME.mp4 gives captions).
    WORD is file-name (NAME.txt, else the film's name as words), coca:FILE, image:FOLDER, video-blip:FOLDER,
    summary:FOLDER, endpoint:URL#MODEL, endpoint-video:URL#MODEL, summary:URL#MODEL, or standin, which names colours
    and movement and recognises nothing."""

    similarity: Annotated[str | None, arg(metavar="WORD")] = None
    """How well captions fit and how good clips look: clip:FOLDER, clip:FOLDER,HEAD, or standin, picture statistics that
    need no weights (default: the configuration's; not measured)."""

    by_source: bool = False
    """Say for each file, too, where its seconds went."""

    show_config: bool = False
    """Print the resolved configuration and stop."""

    json: bool = False
    """Print the counts as one line of JSON."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write OUT/report.html: what became of every source, histograms, thresholds, cut timelines, clips."""

    out: Annotated[Positional[Path], arg(metavar="OUT")]
    """Folder that `kineograph curate` wrote."""

    selection: Annotated[str | None, arg(metavar="NAME")] = None
    """Selection whose thresholds are shown (default: `default`, if there is one)."""

    json: bool = False
    """Print the page's place as one JSON document."""


@dataclass(frozen=True, kw_only=True)
class Select:
    """Select clips by rules, frozen as numbers: motion_mean>=p25 "text_area<=0.07", or a preset such as svd."""

    out: Annotated[Positional[Path], arg(metavar="OUT")]
    """Folder that `kineograph curate` wrote."""

    rules: Annotated[Positional[tuple[str, ...]], arg(metavar="RULE")] = ()
    """AXIS>=NUMBER, AXIS<=NUMBER, AXIS>=pPERCENTILE, AXIS<=pPERCENTILE, "AXIS is none", or a preset's name."""

    name: str = "default"
    """Name of the selection, for export, report and training."""

    apply: Annotated[str | None, arg(metavar="NAME")] = None
    """Apply the frozen numbers of a stored selection to the clips there are now (default: rules are given)."""

    json: bool = False
    """Print the selection as one JSON document."""


@dataclass(frozen=True, kw_only=True)
class Subsets:
    """Make the data sets of a threshold study: selections that drop 0, 12.5, 25 and 50 % of the clips on one axis."""

    out: Annotated[Positional[Path], arg(metavar="OUT")]
    """Folder that `kineograph curate` wrote."""

    study: Annotated[Positional[Path], arg(metavar="STUDY")]
    """Folder of the study; made where it is missing."""

    axis: Annotated[Positional[str], arg(metavar="AXIS")]
    """What to drop by, such as motion_mean: the lowest values go, of text_area and overlay the highest."""

    shares: Annotated[tuple[float, ...], arg(metavar="PERCENT")] = (0.0, 12.5, 25.0, 50.0)
    """Percent to drop, one selection each (default: those of Stable Video Diffusion)."""

    json: bool = False
    """Print the selections as one JSON document."""


@dataclass(frozen=True, kw_only=True)
class Vote:
    """Compare models pair by pair: set up a study, vote in the terminal, or rank by the votes.

    With --models it sets up a study, with --voter it asks one person, otherwise it ranks: SVD's Elo, Bradley-Terry with
    intervals, and no winner where intervals overlap.
    """

    study: Annotated[Positional[Path], arg(metavar="STUDY")]
    """Folder of the study."""

    voter: str = ""
    """Name of the person who votes now."""

    criterion: Annotated[str | None, arg(metavar="NAME")] = None
    """Ask only about this (default: all of the study, one after the other)."""

    limit: Annotated[int | None, arg(metavar="N")] = None
    """Ask at most so many questions (default: all that are wanted)."""

    models: Annotated[tuple[str, ...], UseAppendAction, arg(metavar="NAME=DIR")] = ()
    """A model and the folder of its clips 0000.mp4, 0001.mp4, ...; give it for each model."""

    prompts: Annotated[Path | None, arg(metavar="FILE")] = None
    """Text file with one prompt per line, for a new study (default: no new study)."""

    seed: int = 0
    """Of all random order in a new study."""

    json: bool = False
    """Print the result as one JSON document."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write clips as a manifest, as deterministic WebDataset shards, or in the layout of Hugging Face datasets."""

    out: Annotated[Positional[Path], arg(metavar="OUT")]
    """Folder that `kineograph curate` wrote."""

    output: Annotated[Path, arg(aliases=("-o",), metavar="DEST")]
    """Folder (or .jsonl file, for a manifest) to write."""

    layout: Literal["manifest", "webdataset", "huggingface"] = "manifest"
    """What to write."""

    selection: Annotated[str | None, arg(metavar="NAME")] = None
    """Name of a stored selection (default: every clip)."""

    clips_per_shard: int = 1000
    """Most clips in a WebDataset shard."""

    overwrite: bool = False
    """Replace an earlier export, or the manifest that is there."""

    json: bool = False
    """Print the counts as one JSON document."""


@dataclass(frozen=True, kw_only=True)
class Gc:
    """Delete clips and parts that the folder's present configuration does not refer to, and leftovers of kills."""

    out: Annotated[Positional[Path], arg(metavar="OUT")]
    """Folder that `kineograph curate` wrote."""

    dry_run: bool = False
    """Only list."""

    json: bool = False
    """Print the files as one JSON document."""


Args = (
    Annotated[Run, subcommand("run")]
    | Annotated[Report, subcommand("report")]
    | Annotated[Select, subcommand("select")]
    | Annotated[Subsets, subcommand("subsets")]
    | Annotated[Vote, subcommand("vote")]
    | Annotated[Export, subcommand("export")]
    | Annotated[Gc, subcommand("gc")]
)


def run(args: Run | Report | Select | Subsets | Vote | Export | Gc) -> int:
    """Carry out one verb."""
    match args:
        case Run():
            return _run(args)
        case Report():
            return _report(args)
        case Select():
            return _select(args)
        case Subsets():
            return _subsets(args)
        case Vote():
            return _vote(args)
        case Export():
            return _export(args)
        case Gc():
            return _gc(args)


def _run(args: Run) -> int:
    """Curate; exit status 0 when at least one clip came out, 1 when none did."""
    import json
    import sys
    from dataclasses import replace

    from kineograph.curation.accounts import by_source
    from kineograph.curation.config import CurationConfig, read_config, scorer
    from kineograph.curation.run import curate
    from kineograph.curation.yields import Yield

    config = CurationConfig() if args.config is None else read_config(args.config)
    config = config if args.licence is None else replace(config, licence=args.licence)
    given = {"captions": {"specs": list(args.captions)}} if args.captions else {}
    given |= {"similarity": {"spec": args.similarity}} if args.similarity else {}
    config = replace(config, scorers={**config.scorers, **given})
    for name in given:
        scorer(name, given[name])
    if args.show_config:
        sys.stdout.write(json.dumps(config.to_json(), indent=2) + "\n")
        return 0
    with _Display() as display:
        summary = curate(
            args.raw,
            args.output,
            config,
            resume=args.resume,
            retry=args.retry,
            overwrite=args.overwrite,
            executor_name=args.executor,
            workers=args.workers,
            media=args.media,
            progress=display,
        )
    sources = by_source(args.output) if args.by_source else []
    if args.json:
        document = summary.to_json() | ({"by_source": sources} if args.by_source else {})
        sys.stdout.write(json.dumps(document) + "\n")
    else:
        lines = [f"{one['path']} ({one['status']}): {Yield.from_json(one).in_words()}" for one in sources]
        sys.stdout.write("\n".join([summary.summary(), *lines]) + "\n")
    return 0 if summary.clips else 1


class _Display:
    """Shows one bar, or run of lines, per thing that is done, with a count per status."""

    def __init__(self) -> None:
        self.shown: Any = None
        self.report: Any = None
        self.what = ""

    def __enter__(self) -> _Display:
        return self

    def __exit__(self, *error: Any) -> None:
        if self.shown is not None:
            self.shown.__exit__(*error)

    def __call__(self, done: int, total: int, what: str, counts: dict[str, int], rate: float = 0.0) -> None:
        """Show how far the run is."""
        if what != self.what:
            self.__exit__(None, None, None)
            self.shown, self.what = progress(what, total, "sources" if what == "sources" else "parts"), what
            self.report = self.shown.__enter__()
        notes = [f"{count} {status}" for status, count in sorted(counts.items())]
        notes += [f"{rate:.1f} x real time"] if rate else []
        self.report(done, ", ".join(notes))


def _report(args: Report) -> int:
    """Write the page and print where it is."""
    from kineograph.curation.report import write

    page = write(args.out, args.selection)
    emit({"report": page}, str(page), args.json)
    return 0


def _select(args: Select) -> int:
    """Select and print what each rule drops."""
    from kineograph.curation import select
    from kineograph.errors import InputError

    if args.apply is not None and args.rules:
        raise InputError("--apply takes the rules of a stored selection: give rules or --apply, not both.")
    if args.apply is not None:
        made = select.apply(args.out, args.apply, args.name if args.name != "default" else None)
    else:
        made = select.run(args.out, list(args.rules), args.name)
    emit(made.to_json(), made.summary, args.json)
    return 0


def _subsets(args: Subsets) -> int:
    """Select, and print what each selection keeps and how to export it."""
    from kineograph.curation import study

    made = study.subsets(args.out, args.study, args.axis, args.shares)
    lines = [f"{one.name}: {one.kept} of {one.population} clips" for one in made]
    lines.append(f"for each: kineograph curate export {args.out} -o TRAIN.jsonl --selection NAME")
    emit({"selections": [one.to_json() for one in made]}, "\n".join(lines), args.json)
    return 0


def _vote(args: Vote) -> int:
    """Set up a study, ask, or rank."""
    from kineograph.curation import study

    if args.models:
        return _new_study(args)
    if args.voter:
        session = study.vote_session(args.study, args.voter, study.ask_in_terminal, args.criterion, args.limit)
        text = f"{session.votes} votes stored, {session.left_over} are still wanted"
        emit(session.to_json(), text, args.json)
        return 0
    results = study.results(args.study)
    emit(results.to_json(), results.summary, args.json)
    return 0


def _new_study(args: Vote) -> int:
    """Set up a study from NAME=DIR pairs and a file of prompts."""
    from kineograph._text import read_words
    from kineograph.curation import study
    from kineograph.errors import InputError

    if args.prompts is None:
        raise InputError("A new study needs --prompts FILE, a text file with one prompt per line.")
    pairs = [model.split("=", 1) for model in args.models]
    if any(len(pair) != 2 or not all(pair) for pair in pairs):
        raise InputError(f"--models takes NAME=DIR, not '{' '.join(args.models)}'.")
    prompts = read_words(args.prompts, InputError)
    made = study.create(args.study, dict(pairs), prompts, seed=args.seed)
    text = f"{len(pairs)} models, {len(prompts)} prompts, {made.votes_wanted} votes wanted: {args.study}"
    emit({"study": args.study, "votes_wanted": made.votes_wanted}, text, args.json)
    return 0


def _export(args: Export) -> int:
    """Write the wanted layout."""
    from kineograph.curation import export

    if not args.overwrite:
        export.refuse_existing(args.output, args.layout)
    if args.layout == "manifest":
        made = export.manifest(args.out, args.output, args.selection)
        emit({"manifest": made}, str(made), args.json)
        return 0
    if args.layout == "webdataset":
        report = export.webdataset(args.out, args.output, args.selection, clips_per_shard=args.clips_per_shard)
    else:
        report = export.huggingface(args.out, args.output, args.selection)
    emit(report.to_json(), report.summary, args.json)
    return 0


def _gc(args: Gc) -> int:
    """Sweep, and print what went."""
    from kineograph.curation.run import gc

    files = gc(args.out, args.dry_run)
    word = "would be deleted" if args.dry_run else "deleted"
    if not args.json and args.dry_run:
        for file in files:
            say(str(file))
    emit({"files": files, "deleted": not args.dry_run}, f"{len(files)} files {word}", args.json)
    return 0
