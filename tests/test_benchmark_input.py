"""The input benchmark reports every case that it can run here."""

import json

from benchmarks import input as benchmark


def test_report(tmp_path, capsys):
    out = tmp_path / "input.json"
    benchmark.main(["--workers=0", "--seconds=0.05", "--rounds=1", f"--out={out}"])
    report = json.loads(out.read_text())
    ours = {row["case"]: row for row in report["results"] if row["library"] == "ours"}
    assert set(ours) == {
        *("decode", "crop", "rand_augment", "test"),
        *("pipeline, 0 workers", "pipeline with rand_augment, 0 workers"),
    }
    assert all(len(row["rounds"]) == 1 and row["images_per_second"] > 0 for row in ours.values())
    assert report["images"] == len(benchmark.SIZES) and report["versions"]["pillow"]
    assert "images/s" in capsys.readouterr().out
