"""Published lists are read as they are written, matched with local files, and never evaluated."""

import csv
import json

import pytest

from kineograph.curation.lists import Span, read
from kineograph.errors import DataError, InputError, KineographError


def files(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"film")


def table(path, header, *rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def test_webvid(tmp_path):
    files(tmp_path, "videos/015001_015050/1066674784.mp4", "videos/other/21179416.mp4")
    header = ["videoid", "contentUrl", "duration", "page_dir", "name"]
    csv_file = table(
        tmp_path / "results_2M_val.csv",
        header,
        ["1066674784", "https://example/a.mp4", "PT00H00M11S", "015001_015050", "Rice paper, with  a pen"],
        ["21179416", "https://example/b.mp4", "PT00H00M29S", "006001_006050", "Aerial shot winter forest"],
        ["99", "https://example/c.mp4", "PT00H00M29S", "006001_006050", "Gone"],
    )
    listing = read(csv_file, tmp_path / "videos")
    assert listing.layout == "webvid"
    first, second = listing.sources
    assert (first.path.name, first.caption, first.spans) == ("1066674784.mp4", "Rice paper, with a pen", ())
    assert second.caption_for(3, 9) == "Aerial shot winter forest"
    assert listing.missing == ["99"]
    assert "2 sources with 0 spans (webvid); 1 listed files are not here, such as 99" in listing.summary()
    assert json.loads(json.dumps(listing.to_json()))["sources"][0]["identifier"] == "1066674784"


def test_hdvila(tmp_path):
    files(tmp_path, "QMi8e0dNnHo.mp4")
    row = {
        "video_id": "QMi8e0dNnHo",
        "url": "https://www.youtube.com/watch?v=QMi8e0dNnHo",
        "clip": [
            {"clip_id": "QMi8e0dNnHo.0.mp4", "span": ["00:00:19.227", "00:00:26.759"]},
            {"clip_id": "QMi8e0dNnHo.1.mp4", "span": ["01:02:03.500", "01:02:10.000"]},
        ],
    }
    (tmp_path / "hdvila_part0.jsonl").write_text(json.dumps(row) + "\n\n")
    (source,) = read(tmp_path / "hdvila_part0.jsonl").sources
    assert source.spans == (Span(19.227, 26.759), Span(3723.5, 3730.0))


def test_panda(tmp_path):
    files(tmp_path, "deep/-aBcDeF1234.webm")
    path = table(
        tmp_path / "panda70m_training_2m.csv",
        ["videoID", "url", "timestamp", "caption", "matching_score", "desirable_filtering"],
        [
            "-aBcDeF1234",
            "https://www.youtube.com/watch?v=-aBcDeF1234",
            "[['0:00:13.146', '0:00:15.649'], ['0:01:30.123', '0:01:40.000']]",
            '[\'A person, "skiing".\', "It\'s a dog."]',
            "[0.4545, 0.51]",
            "['desirable', 'still_image']",
        ],
    )
    listing = read(path)
    assert listing.layout == "panda"
    (source,) = listing.sources
    assert source.spans == (
        Span(13.146, 15.649, 'A person, "skiing".', {"matching_score": 0.4545}),
        Span(90.123, 100.0, "It's a dog.", {"matching_score": 0.51}),
    )
    caption = lambda start, end: listing.caption_for(source.path, start, end)
    assert caption(13.2, 15.5) == 'A person, "skiing".'
    assert caption(91, 99) == "It's a dog."
    assert caption(15.0, 40.0) == ""  # covered by 3 %
    assert listing.caption_for(tmp_path / "unlisted.mp4", 0, 1) == ""


def test_koala_has_a_row_per_span(tmp_path):
    files(tmp_path, "PdYCTlNzmJM.mp4")
    path = table(
        tmp_path / "Koala_36M.csv",
        ["videoID", "url", "timestamp", "caption", "clarity_score", "aesthetic_score"],
        ["PdYCTlNzmJM_1", "https://youtu.be/PdYCTlNzmJM", "['0:00:30.0', '0:00:36.5']", "second", "0.9", "4.5"],
        ["PdYCTlNzmJM_0", "https://youtu.be/PdYCTlNzmJM", "['0:00:10', '0:00:20']", "first", "0.8", "n/a"],
    )
    listing = read(path)
    assert listing.layout == "koala"
    (source,) = listing.sources
    assert source.spans == (
        Span(10.0, 20.0, "first", {"clarity_score": 0.8}),
        Span(30.0, 36.5, "second", {"clarity_score": 0.9, "aesthetic_score": 4.5}),
    )


@pytest.mark.parametrize(
    ("timestamp", "message"),
    [
        ("__import__('os').system('touch pwned')", "is no list"),
        ("[['0:00:01', '0:00:02'], exit()]", "is no list"),
        ("7", "is no list"),
        ("[['0:00:05', '0:00:02']]", "does not end after its start"),
        ("[['soon', '0:00:02']]", "is no timestamp"),
        ("[['0:00:05']]", r"a span is \[start, end\]"),
        ("[['0:00:01', '0:00:02'], ['0:00:03', '0:00:04']]", "different number"),
    ],
)
def test_cells_are_parsed_and_never_run(tmp_path, monkeypatch, timestamp, message):
    monkeypatch.chdir(tmp_path)
    files(tmp_path, "abcdefghijk.mp4")
    path = table(
        tmp_path / "panda.csv",
        ["videoID", "url", "timestamp", "caption", "matching_score"],
        ["abcdefghijk", "", timestamp, "['one']", "[0.5]"],
    )
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    assert "panda.csv:2" in str(caught.value)
    assert not (tmp_path / "pwned").exists()


def test_errors(tmp_path):
    with pytest.raises(DataError, match="no list at"):
        read(tmp_path / "none.csv")
    path = table(tmp_path / "webvid.csv", ["videoid", "name"], ["1", "x"])
    with pytest.raises(DataError, match=r"None of the 1 files .* such as 1\. Nothing is downloaded"):
        read(path)
    with pytest.raises(InputError, match="did you mean 'koala'"):
        read(path, layout="koalla")
    with pytest.raises(DataError, match="lacks the columns timestamp, caption"):
        read(path, layout="koala")
    with pytest.raises(DataError, match="no folder"):
        read(path, tmp_path / "none")
    files(tmp_path, "a/1.mp4", "b/1.mkv")
    with pytest.raises(DataError, match="'1' could be"):
        read(path)
    other = table(tmp_path / "other.csv", ["a", "b"], ["1", "2"])
    with pytest.raises(DataError, match="its first line is: a,b"):
        read(other)
    ragged = tmp_path / "ragged.csv"
    ragged.write_text("videoid,name\n1,x,y\n")
    with pytest.raises(DataError, match=r"ragged\.csv:2: the row has 3 cells, not the 2 columns"):
        read(ragged)
    (tmp_path / "bad.jsonl").write_text('{"video_id": "x", "clip": 3}\n')
    with pytest.raises(KineographError, match=r"bad\.jsonl:1"):
        read(tmp_path / "bad.jsonl")
