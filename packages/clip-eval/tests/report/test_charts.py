from __future__ import annotations

import pytest
from clip_eval.metrics.functions import calibration
from clip_eval.report.charts import Point, cost_chart, reliability_chart


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
