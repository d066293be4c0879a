"""The script that writes `docs/third-party.md`: its lists, its page, and a slice of its rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"
ROWS = [
    {
        **{"library": "timm", "model": "a", "form": "64 px", "parameters": 1000},
        **{"elastic": 0.9, "smallest": 0.25, "error": 2e-7, "flops": [[10, 10], [20, 20]]},
        **{"torch_pruning": 0.26, "torch_pruning_same_outputs": True, "supernet_seconds": 2.0},
    },
    {
        **{"library": "timm", "model": "b|c", "form": "64 px", "parameters": 2000},
        **{"elastic": 0.3, "smallest": 0.8, "error": 0.0, "flops": [[1500, 1600]]},
        **{"torch_pruning_failure": "ValueError: one two three four five six seven"},
    },
    {
        **{"library": "timm", "model": "d", "form": "64 px", "parameters": 3000},
        **{"elastic": 0.3, "smallest": 0.1, "extract_failure": "VerificationError: no"},
        **{"torch_pruning": 0.4, "torch_pruning_same_outputs": False},
    },
    {"library": "open_clip", "model": "e", "not_counted": "1234 million parameters"},
    {"library": "open_clip", "model": "f", "supernet_failure": "ended with -9"},
]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import third_party_table

    return third_party_table


def test_the_page_says_what_the_rows_say(script):
    page = script.page(ROWS, 9, {"timm": ["a", "b|c", "d"], "open_clip": ["e", "f"]}, "COMMAND")
    text = "\n".join(page)
    assert "Written by `COMMAND`" in text
    assert "(timm 3, open_clip 2)" in text
    lines = [line for line in page if line.startswith("| ") and not line.startswith("| library")]
    assert lines == [
        "| timm | a | 64 px | 1,000 | 90% | 25% | 2e-07 | 10 / 10 | 2 | 26% |",
        "| timm | b\\|c | 64 px | 2,000 | 30% | 80% | 0 | 1,500 / 1,600 |  | "
        "ValueError: one two three four five |",
        "| timm | d | 64 px | 3,000 | 30% | 10% | VerificationError: no | |  | "
        "40%, other outputs |",
        "| open_clip | f |  | | | | ended with -9 | |  |  |",
    ]
    assert page[-1] == "- open_clip e: 1234 million parameters"
    summary = "\n".join(script.summary(ROWS, 9))
    assert "5 of 9 models tried, 4 counted (timm 3, open_clip 1)" in summary
    assert "**1 of 4 (25%) reach −30 %**" in summary
    assert "2 of 4 (50%) are without a failure" in summary
    assert "Largest difference of supernet and extraction: 2e-07" in summary
    assert "exactly torch's for 1 of 2 (50%)" in summary
    assert "torch-pruning: 2 of 4 (50%) run after pruning" in summary
    assert "1 of 4 (25%) of those with at most 70 %" in summary


def test_models_are_tried_from_all_libraries_in_turn(script):
    names = {"timm": list("abcd"), "open_clip": list("xy")}
    order = [name for _, name in script.in_turn(names)]
    assert sorted(order) == list("abcdxy")
    assert order.index("y") < order.index("d")
    assert [x for x in order if x in "abcd"] == list("abcd")


def test_rows_with_a_failure_are_repeated_only_when_asked(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "list_models", lambda every: {"timm": ["a", "d"]})
    calls = []

    def measured(library, name, seconds, gigabytes):
        calls.append(name)
        return next(row for row in ROWS if row["model"] == name)

    monkeypatch.setattr(script, "run_bounded", measured)
    words = ["table", "--out", str(tmp_path), "--libraries", "timm"]
    for more, expected in (
        (["--most", "1"], ["a"]),
        ([], ["a", "d"]),
        ([], ["a", "d"]),
        (["--again"], ["a", "d", "d"]),
    ):
        monkeypatch.setattr(sys, "argv", [*words, *more])
        script.main()
        assert calls == expected
    assert "| timm | d |" in (tmp_path / "table.md").read_text()


def test_configs_are_reduced_alike(script):
    from third_party_models import SHALLOW, THIN, reduce_config

    config = {
        **{"num_hidden_layers": 12, "hidden_size": 768, "vocab_size": 30522, "scale": 3},
        **{"layer_types": ["full"] * 12, "sizes": [1, 2], "eos_token_id": 30000},
        "vision_config": {"hidden_size": 32, "depth": 27},
    }
    thin = reduce_config(config, THIN | SHALLOW)
    assert 100 < thin.pop("eos_token_id") < 160
    assert thin == {
        **{"num_hidden_layers": 2, "hidden_size": 64, "vocab_size": 160, "scale": 3},
        **{"layer_types": ["full"] * 2, "sizes": [1, 2]},
        "vision_config": {"hidden_size": 32, "depth": 2},
    }
    assert reduce_config(config, SHALLOW)["hidden_size"] == 768


@pytest.mark.slow
def test_a_slice_of_the_libraries(tmp_path):
    """Some models of each list: none is wrong, and nearly all get a third smaller."""
    pytest.importorskip("torch_pruning")
    command = [sys.executable, str(BENCH / "third_party_table.py"), "--out", str(tmp_path)]
    subprocess.run([*command, "--every", "60"], check=True)
    results = json.loads((tmp_path / "results.json").read_text())
    rows = [
        row
        for library in ("timm", "torchvision", "open_clip", "transformers")
        for row in results[library].values()
        if "not_counted" not in row
    ]
    assert len(rows) >= 20
    right = [row for row in rows if "error" in row and row["error"] < 1e-4]
    reached = [row for row in right if row["smallest"] <= 0.7]
    assert len(reached) >= 0.85 * len(rows), [row for row in rows if row not in reached]
    for row in right:
        assert row["elastic"] > 0
        assert all(ours == torchs for ours, torchs in row["flops"]), row
