"""Studies: subsets as published, fair questions, votes that survive, inattentive voters left out, honest results."""

import json
import multiprocessing
from collections import Counter

import av
import numpy as np
import pytest
from fabricated import output

from kineograph.curation import select, study
from kineograph.errors import DataError, InputError

MODELS = ("drop 0", "drop 25", "drop 50")


def begun(folder, prompts=8, models=MODELS, criteria=("visual quality",), votes=3):
    places = {}
    for model in models:
        place = folder / "clips" / model
        place.mkdir(parents=True)
        for i in range(prompts):
            (place / f"{i:04d}.mp4").write_bytes(b"film")
        places[model] = place
    study.create(
        folder / "study",
        places,
        [f"prompt {i}" for i in range(prompts)],
        criteria=criteria,
        votes_per_question=votes,
        seed=3,
    )
    return folder / "study"


def voter_with(strength, rng):
    """Vote by Bradley-Terry with given ratings; pass every check."""

    def ask(question):
        if question.check:
            return question.check
        gap = strength[question.right] - strength[question.left]
        return "left" if rng.random() < 1 / (1 + 10 ** (gap / 400)) else "right"

    return ask


def test_subsets_drop_the_published_shares(tmp_path):
    output(tmp_path / "out", clips=16)
    made = study.subsets(tmp_path / "out", tmp_path / "study", "motion_mean")
    assert [one.kept for one in made] == [16, 14, 12, 8]
    text = study.subsets(tmp_path / "out", tmp_path / "study", "text_area", (0, 25))
    assert text[1].rules[0].rule == "text_area<=p75"
    assert set(select.kept(tmp_path / "out", "study-motion_mean-25")) < set(
        select.kept(tmp_path / "out", "study-motion_mean-12.5")
    )
    stored = json.loads((tmp_path / "study/subsets/motion_mean-25.json").read_text())
    assert stored == made[2].to_json()


def test_every_pair_on_every_prompt_is_asked_often_enough(tmp_path):
    folder = begun(tmp_path, criteria=study.CRITERIA)
    rng = np.random.default_rng(0)
    ask = voter_with(dict.fromkeys(MODELS, 0), rng)
    plan = study.load(folder)
    assert plan.votes_wanted == 3 * 8 * 2 * 3
    sessions = [study.vote_session(folder, f"voter {i}", ask) for i in range(4)]
    assert [one.votes for one in sessions] == [48, 48, 48, 0]
    assert sessions[-1].left_over == 0
    assert sessions[0].checks == sessions[0].passed == 5
    votes = [vote for vote in study.read_votes(folder) if not vote.check]
    asked = Counter((vote.criterion, vote.prompt, *sorted((vote.left, vote.right))) for vote in votes)
    assert set(asked.values()) == {3}
    assert len(asked) == 48
    sides = np.mean([vote.left < vote.right for vote in votes])
    assert 0.35 < sides < 0.65
    orders = [tuple(vote.prompt for vote in votes if vote.voter == f"voter {i}") for i in range(3)]
    assert len(set(orders)) == 3
    first = [vote.criterion for vote in votes if vote.voter == "voter 0"]
    assert first == sorted(first, reverse=True)  # one criterion after the other, not mixed


def test_a_session_can_be_left_and_taken_up(tmp_path):
    folder = begun(tmp_path)
    seen = []

    def ask(question):
        seen.append((question.prompt, *sorted((question.left, question.right))) if not question.check else None)
        return question.check or "left"

    def leave(question):
        return "quit" if len(seen) >= 5 else ask(question)

    assert study.vote_session(folder, "Ada", leave).votes + study.vote_session(folder, "Ada", leave).checks == 5
    session = study.vote_session(folder, "Ada", ask, limit=7)
    assert session.votes == 7
    study.vote_session(folder, "Ada", ask)
    real = [one for one in seen if one]
    assert len(real) == len(set(real)) == 24
    assert study.vote_session(folder, "Ada", ask).votes == 0


def test_results_name_a_winner_only_when_it_is_clear(tmp_path):
    folder = begun(tmp_path, prompts=64)
    rng = np.random.default_rng(1)
    strength = {"drop 0": 0, "drop 25": 170, "drop 50": 20}
    for i in range(3):
        study.vote_session(folder, f"voter {i}", voter_with(strength, rng))
    found = study.results(folder)
    ranking = found.rankings["visual quality"]
    assert (found.votes, found.left_out, ranking.winner) == (576, 0, "drop 25")
    ratings = {one.model: one.rating for one in ranking.standings}
    assert ratings["drop 25"] - ratings["drop 0"] == pytest.approx(170, abs=60)
    text = found.summary()
    assert "576 of 576 votes" in text
    assert "'drop 25' is best" in text
    assert "Elo, as SVD" in text
    assert json.loads(json.dumps(found.to_json()))["rankings"]["visual quality"]["winner"] == "drop 25"


def test_inattentive_voters_do_not_count_and_are_asked_for_again(tmp_path):
    folder = begun(tmp_path, prompts=20, votes=1)
    study.vote_session(folder, "careless", lambda question: "left")
    everyone = study.read_votes(folder)
    assert 0 < study.attention(everyone)["careless"] < 0.8
    assert study.counted(everyone) == []
    with pytest.raises(DataError, match="no vote that counts"):
        study.results(folder)
    session = study.vote_session(folder, "Ada", voter_with(dict.fromkeys(MODELS, 0), np.random.default_rng(2)))
    assert (session.votes, session.left_over) == (60, 0)
    found = study.results(folder)
    assert (found.votes, found.left_out) == (60, 60)
    assert found.voters["Ada"] == 1.0


def test_a_check_shows_noise_that_is_a_film(tmp_path):
    folder = begun(tmp_path)
    checks = [q for q in study.questions(study.load(folder), folder, "Ada") if q.check]
    assert checks
    for question in checks:
        noise = question.right_file if question.check == "left" else question.left_file
        assert noise == folder / "check.mp4"
        assert {question.left, question.right} & set(MODELS)
    with av.open(str(folder / "check.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 8


def vote_many(folder, name):
    study.vote_session(folder, name, lambda question: question.check or "right")


def test_several_people_vote_at_once(tmp_path):
    folder = begun(tmp_path, prompts=12)
    (folder / "check.mp4").write_bytes(b"film")
    context = multiprocessing.get_context("fork")
    people = [context.Process(target=vote_many, args=(folder, f"voter {i}")) for i in range(3)]
    for one in people:
        one.start()
    for one in people:
        one.join()
    votes = study.read_votes(folder)
    assert Counter(vote.voter for vote in votes if not vote.check) == {f"voter {i}": 36 for i in range(3)}


def test_a_vote_cut_short_is_dropped_and_the_next_one_is_whole(tmp_path):
    folder = begun(tmp_path)
    study.vote_session(folder, "Ada", lambda question: question.check or "left", limit=3)
    file = folder / "votes.jsonl"
    whole = file.read_bytes()
    for cut in (5, 60, len(whole.split(b"\n")[0])):
        file.write_bytes(whole + whole.split(b"\n")[0][:cut])
        complete = cut == len(whole.split(b"\n")[0])
        assert len(study.read_votes(folder)) == 3 + complete
        study.vote_session(folder, f"B{cut}", lambda question: question.check or "left", limit=1)
        assert len(study.read_votes(folder)) == 4 + complete
    file.write_bytes(b"{}\n" + whole)
    with pytest.raises(DataError, match=r"votes\.jsonl:1: no vote"):
        study.read_votes(folder)
    file.write_text(json.dumps({**json.loads(whole.split(b"\n")[0]), "left": "another"}) + "\n")
    with pytest.raises(DataError, match="does not belong"):
        study.read_votes(folder)


def test_asking_in_a_terminal_hides_the_models(tmp_path):
    folder = begun(tmp_path)
    question = next(study.questions(study.load(folder), folder, "Ada"))
    shown, answers = [], iter(["x", " R "])
    assert study.ask_in_terminal(question, lambda text: shown.append(text) or next(answers)) == "right"
    assert question.text in shown[0]
    assert not any(model in shown[0] for model in MODELS)
    assert "Type l, r or q" in shown[1]

    def closed(text):
        raise EOFError

    assert study.ask_in_terminal(question, closed) == "quit"


def test_errors(tmp_path):
    folder = begun(tmp_path)
    with pytest.raises(InputError, match="holds a study already"):
        study.create(folder, {"a": tmp_path, "b": tmp_path}, ["x"])
    with pytest.raises(InputError, match="at least two models"):
        study.create(tmp_path / "s", {"a": tmp_path}, ["x"])
    with pytest.raises(DataError, match=r"2 clips are missing, such as .*0000\.mp4"):
        study.create(tmp_path / "s", {"a": tmp_path, "b": tmp_path}, ["x"])
    with pytest.raises(DataError, match="no study in"):
        study.load(tmp_path)
    with pytest.raises(InputError, match="did you mean 'visual quality'"):
        study.vote_session(folder, "Ada", lambda question: "left", "visual qality")
    with pytest.raises(InputError, match="Unknown answer 'both'"):
        study.vote_session(folder, "Ada", lambda question: "both")
    with pytest.raises(InputError, match="needs a name"):
        study.vote_session(folder, " ", lambda question: "left")
