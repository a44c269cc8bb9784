"""Pictures of the page on choosing clips, from a run: python docs/curation/choosing.py OUT."""

import sys
from pathlib import Path

from kineograph.curation import select
from kineograph.curation.catalogue import Catalogue
from kineograph.curation.pictures import contact_sheet, histogram
from kineograph.curation.report import beside

HERE = Path(__file__).parent


def main(out: str) -> None:
    motion, text = select.run(out, ["motion_mean>=p25", "text_area<=0.07"], "docs").rules
    with Catalogue(out) as catalogue:
        ids, values, areas = catalogue.ids(), catalogue.axis("motion_mean"), catalogue.axis("text_area")
    drawn = histogram(values, motion.passes(values), motion.threshold, title=f"motion_mean ({motion.rule})", width=560)
    (HERE / "motion_mean.svg").write_text(drawn.replace("currentColor", "#6b7480") + "\n")
    kept, dropped = beside(ids, values, motion)
    sheet(out, kept, "motion_mean-kept")
    sheet(out, dropped, "motion_mean-dropped")
    worst = [one for one, _ in beside(ids, areas, text)[1]]
    contact_sheet(out, worst, HERE / "text_area-dropped.jpg", columns=1, width=640, whole=True)


def sheet(out: str, clips: list[tuple[str, float]], name: str) -> None:
    contact_sheet(out, [clip_id for clip_id, _ in clips], HERE / f"{name}.jpg", width=150)


if __name__ == "__main__":
    main(sys.argv[1])
