from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from clip_eval.cli.main import main


def test_a_page_of_a_family_and_one_without_its_data(
    trained_directory: Path,
    color_folder: Path,
    tmp_path: Path,
    read_json: Callable[[Path], Any],
) -> None:
    out = tmp_path / "out"
    captions = tmp_path / "colors.csv"
    captions.write_text("path,caption\ncolors/red/0.png,a red one\ncolors/blue/0.png,blue\n")
    for task, more in (("classify", ["--cost"]), ("retrieval", []), ("knn", ["--train", "x"])):
        more = [str(color_folder) if word == "x" else word for word in more]
        data = captions if task == "retrieval" else color_folder
        command = ["run", "--model", str(trained_directory), "--data", str(data)]
        command += ["--out", str(out / task), "--task", task, "--quiet", *more]
        assert main(command) == 0
    data_of = ["--data", str(color_folder), "--data", str(captions)]
    report = ["report", str(out), "--out", str(tmp_path / "page.html"), *data_of, "--overwrite"]
    assert main(report) == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<details") >= 3
    assert page.count('<svg class="chart"') == 3 + 2
    assert "Sample images" in page
    table = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert table.count("| colors |") == 3

    color_folder.rename(tmp_path / "moved")
    report = ["report", str(out), "--out", str(tmp_path / "page.html"), *data_of, "--overwrite"]
    assert main(report) == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "no images:" in page
    assert "Sample images" not in page
