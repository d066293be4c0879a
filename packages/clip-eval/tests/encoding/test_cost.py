from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from clip_eval import load_for_evaluation
from clip_eval.cli.main import main
from clip_eval.encoding.cost import count_flops, count_parameters, measure_cost
from clip_eval.encoding.encoder import Encoder
from clip_eval.metrics.functions import calibration
from clip_eval.report.charts import Point, cost_chart, reliability_chart
from torch import nn
from torch.nn.functional import scaled_dot_product_attention


def test_operations_are_two_per_multiplication() -> None:
    layer, conv = nn.Linear(5, 7), nn.Conv2d(3, 4, 3, padding=1)
    with torch.no_grad():
        assert count_flops(lambda: layer(torch.zeros(2, 5))) == 2 * 2 * 5 * 7
        assert count_flops(lambda: conv(torch.zeros(1, 3, 8, 8))) == 2 * 8 * 8 * 4 * 3 * 9
        q = torch.zeros(1, 2, 6, 4)
        assert count_flops(lambda: scaled_dot_product_attention(q, q, q)) == 2 * 2 * 2 * 6 * 6 * 4
        block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
        plain = 2 * 5 * (3 * 64 + 64 + 2 * 8 * 16) + 2 * 2 * 5 * 5 * 8
        assert count_flops(lambda: block(torch.zeros(1, 5, 8))) == plain  # no fused kernel hides it
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_shared_parameter_counts_once() -> None:
    layer = nn.Linear(3, 3)
    assert count_parameters(nn.Sequential(layer, layer)) == 12
    assert count_parameters(object()) is None


def test_what_a_model_costs(trained_directory: Path) -> None:
    loaded = load_for_evaluation(trained_directory)
    encoder = Encoder(loaded.model, loaded.tokenizer, loaded.preprocess)
    found = measure_cost(encoder, batch_sizes=(1, 4), repeats=3, warmup=1)
    assert found["parameters"] == count_parameters(loaded.model)
    assert found["image_flops"] > found["text_flops"] > 0
    assert found["input_pixels"] == [16, 16]
    assert [row["batch"] for row in found["image_latency"]] == [1, 4]
    for row in found["image_latency"] + found["text_latency"]:
        assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"]
        assert row["per_second"] == pytest.approx(1000 * row["batch"] / row["p50_ms"], rel=0.01)
    assert found["device"]


def test_calibration_by_hand() -> None:
    bins, error = calibration([0.95, 0.9, 1.0, 0.15], [True, True, False, False])
    assert [b.n for b in bins] == [0, 1, 0, 0, 0, 0, 0, 0, 0, 3]
    assert bins[9].accuracy == pytest.approx(2 / 3)
    assert bins[9].confidence == pytest.approx(0.95)
    assert error == pytest.approx((3 * (0.95 - 2 / 3) + 0.15) / 4)
    assert calibration([], [])[1] is None
    assert "0.95" not in reliability_chart(bins)
    assert reliability_chart(bins).count("<rect") == 2


def test_a_chart_of_costs() -> None:
    points = [Point("a <b>", 1e6, 0.5, (0.4, 0.6)), Point("c", 1e9, 1.0, None)]
    chart = cost_chart(points, "parameters")
    assert chart.count("<circle") == 2
    assert "a &lt;b&gt;" in chart
    assert "nan" not in chart
    assert cost_chart([Point("a", 0.0, 0.5, None)], "x") == ""
    assert "nan" not in cost_chart([Point("a", 5.0, 0.0, (0.0, 0.0))], "x")


def test_a_page_of_a_family_and_one_without_its_data(
    trained_directory: Path,
    colour_folder: Path,
    tmp_path: Path,
    read_json: Callable[[Path], Any],
) -> None:
    out = tmp_path / "out"
    captions = tmp_path / "colours.csv"
    captions.write_text("path,caption\ncolours/red/0.png,a red one\ncolours/blue/0.png,blue\n")
    for task, more in (("classify", ["--cost"]), ("retrieval", []), ("knn", ["--train", "x"])):
        more = [str(colour_folder) if word == "x" else word for word in more]
        data = captions if task == "retrieval" else colour_folder
        command = ["run", "--model", str(trained_directory), "--data", str(data)]
        command += ["--out", str(out / task), "--task", task, "--quiet", *more]
        assert main(command) == 0
    data_of = ["--data", str(colour_folder), "--data", str(captions)]
    report = ["report", str(out), "--out", str(tmp_path / "page.html"), *data_of, "--overwrite"]
    assert main(report) == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<details") >= 3
    assert page.count('<svg class="chart"') == 3 + 2
    assert "Sample images" in page
    table = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert table.count("| colours |") == 3

    colour_folder.rename(tmp_path / "moved")
    report = ["report", str(out), "--out", str(tmp_path / "page.html"), *data_of, "--overwrite"]
    assert main(report) == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "no images:" in page
    assert "Sample images" not in page
