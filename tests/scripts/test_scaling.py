"""The plot of quality against compute."""

import json

import pytest
from PIL import Image
from tiny import SMALLEST, refused, succeeded

from dreamrun.model import ModelConfig
from dreamrun.scripts.plot_scaling import CONTROLLABILITY, PSNR, read_points, training_flop


def test_flop_of_a_step():
    """Teacher forcing runs over two copies of each clip, filling in over one."""
    options = {"batch_size": 4, "clip_frames": None, "noise_levels": "teacher-forcing", "fill_share": 0.0}
    both = training_flop(SMALLEST, options)
    assert both == 3 * SMALLEST.flops_per_pass * 4 * SMALLEST.window_frames * 2
    assert training_flop(SMALLEST, {**options, "fill_share": 0.5}) == pytest.approx(0.75 * both)
    assert training_flop(SMALLEST, {**options, "noise_levels": "uniform", "clip_frames": 3}) == pytest.approx(both / 4)


@pytest.fixture
def folder(tmp_path):
    """Two runs of two reports each."""
    for name, dim, quality in (("small", 32, 20.0), ("large", 64, 22.0)):
        run = tmp_path / "scaling" / name
        for step in (90, 270):
            estimate = {"value": quality + step / 90, "low": 19.0, "high": 27.0, "n": 3}
            report = {
                "checkpoint": {"config": {**SMALLEST.to_dict(), "dim": dim}},
                "fidelity": {"dream": {"psnr": [estimate] * 8}},
                "counterfactuals": {"by_frame": [{"frame": 8, "controllability": {**estimate, "value": 0.5}}]},
            }
            (run / f"report-{step}").mkdir(parents=True)
            (run / f"report-{step}" / "report.json").write_text(json.dumps(report))
        options = {"batch_size": 8, "clip_frames": None, "noise_levels": "uniform", "fill_share": 0.0}
        (run / "train_config.json").write_text(json.dumps(options))
    return tmp_path / "scaling"


def test_points_and_plot(run_script, folder, tmp_path):
    points = read_points(folder / "large")
    config = ModelConfig(**{**SMALLEST.to_dict(), "dim": 64})
    assert [point["flop"] for point in points] == [step * 3 * config.flops_per_pass * 8 * 6 for step in (90, 270)]
    assert [point[PSNR]["value"] for point in points] == [23, 25] and points[0][CONTROLLABILITY]["value"] == 0.5
    out = succeeded(run_script("plot_scaling", "--folder", folder, "--output", "plot.png"))
    assert out.count("| small |") == out.count("| large |") == 2 and "25.0 [19.0, 27.0] | 50 %" in out
    assert Image.open(tmp_path / "plot.png").width > 800


def test_mistakes_are_one_line(run_script, folder):
    result = run_script("plot_scaling", "--folder", folder / "small")
    refused(result, "holds no runs with reports", "scripts/scaling.sh")
    (folder / "small" / "report-90" / "report.json").write_text("{}")
    refused(run_script("plot_scaling", "--folder", folder), "is not a report")
