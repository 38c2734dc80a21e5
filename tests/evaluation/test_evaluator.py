"""The command that evaluates a checkpoint: its report, its cache, and what it cannot measure."""

import json
import shutil
from dataclasses import replace

import pytest
from tiny import LITTLE, SMALLEST, TINY, command, random_model, refused, succeeded

from dreamrun.evaluation.compare import figures, read_report
from dreamrun.evaluation.context import ResultCache
from dreamrun.evaluation.evaluation_config import EvaluateConfig
from dreamrun.evaluation.evaluator import evaluate
from dreamrun.evaluation.report import write_report
from dreamrun.evaluation.sections import SECTIONS
from dreamrun.export.onnx import export_onnx
from dreamrun.games.game import Game
from dreamrun.games.pong import PongVectorEnv
from dreamrun.games.space import unnamed_actions
from dreamrun.model import WorldModel


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints") / "random"
    random_model(
        replace(SMALLEST, num_actions=3, num_steps=2), game=Game("pong", actions=unnamed_actions(3))
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def run(monkeypatch, capsys, tmp_path, checkpoint, pong_set):
    """run(*options): evaluate a network of random weights, with few clips, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def evaluate(*options, data=pong_set):
        data_option = ("--data", data) if data else ()
        fixed = ("--checkpoint", checkpoint, *LITTLE, *data_option)
        return command(monkeypatch, capsys, "scripts.evaluate", *fixed, *options)

    return evaluate


@pytest.fixture
def measured(checkpoint, pong_set, tmp_path):
    """measured(*names, sections, data, output): the results of these sections alone, without their timings."""

    def measure(*names, sections=SECTIONS, data=pong_set, output="a", **options):
        config = EvaluateConfig(
            checkpoint=str(checkpoint), data=data, output=tmp_path / output, quick=True, sizes=LITTLE[2:], **options
        )
        report = evaluate(config, sections=[section for section in sections if section.name in (*names, "frame_ms")])
        del report["timings"]
        return report

    return measure


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return tmp_path_factory.mktemp("finished") / "a"


@pytest.fixture
def report_a(run, tmp_path, finished):
    """The folder "a" of an evaluation, which is made once for all tests."""
    if not finished.exists():
        out = succeeded(run("--output", "a"))
        assert "Controllability at frame 1" in out and "Collapsed" in out
        shutil.copytree(tmp_path / "a", finished)
    return shutil.copytree(finished, tmp_path / "a", dirs_exist_ok=True)


def read_figures(folder):
    """The report without its timings."""
    report = json.loads((folder / "report.json").read_text())
    del report["timings"]
    return report


def test_two_evaluations_are_identical_and_the_page_loads_no_other_file(run, report_a, tmp_path):
    succeeded(run("--output", "b"))
    assert read_figures(tmp_path / "a") == read_figures(tmp_path / "b")
    report = read_figures(tmp_path / "a")
    for name in ("fidelity", "single_step", "counterfactuals", "inverse_dynamics", "drift", "objects", "sweep", "cost"):
        assert "not_measured" not in report[name], report[name]
    assert "no outcome head" in report["outcomes"]["not_measured"]
    assert [(row["num_steps"], row["guidance"], row["context_noise"]) for row in report["sweep"]] == [
        (1, 1, 0.02), (2, 1, 0.0), (2, 1, 0.02), (2, 1, 0.1), (2, 1.5, 0.02)
    ]  # fmt: skip
    plain, guided = report["sweep"][2], report["sweep"][4]
    assert 5 / 3 < guided["gflop_per_frame"] / plain["gflop_per_frame"] < 2  # five passes, not three; one is shorter
    assert guided["psnr_4"] != plain["psnr_4"]
    page = (tmp_path / "a" / "report.html").read_text()
    assert page.count("<svg") == 6 and page.count("data:image/webp") == 5
    assert "http://" not in page.replace("http://www.w3.org", "") and 'src="data:' in page
    assert "| controllability |" in (tmp_path / "a" / "report.md").read_text()
    assert "\n0 of " in succeeded(run("--compare", "a/report.json", "b"))


def test_the_comparison_reads_older_reports(run, report_a, tmp_path):
    """Controllability was called obedience, and two settings had other names."""
    text = (report_a / "report.json").read_text()
    for name, old in (
        ('"controllability', '"obedience'), ("num_long_rollouts", "drift_dreams"),
        ("inverse_dynamics_steps", "reader_steps"),
    ):  # fmt: skip
        assert name in text
        text = text.replace(name, old)
    (tmp_path / "old.json").write_text(text)
    current = run("--compare", "a", "a/report.json")[1].splitlines()[-1]
    printed = succeeded(run("--compare", "a", "old.json"))
    assert printed.splitlines()[-1] == current and "note:" not in printed
    names = dict(figures(read_report(tmp_path / "old.json"))).keys()
    assert "counterfactuals by_frame frame 4 controllability" in names
    assert any(name.endswith(" controllability_4") for name in names)


def test_the_comparison_names_the_figures_and_settings_that_differ(run, report_a, tmp_path):
    report = json.loads((report_a / "report.json").read_text())
    report["fidelity"]["dream"]["psnr"][3] = {"value": 90.0, "low": 89.0, "high": 91.0, "n": 3}
    report["settings"]["seed"] = 1
    (tmp_path / "b.json").write_text(json.dumps(report))
    out = succeeded(run("--compare", "a/report.json", "b.json"))
    assert "fidelity dream psnr 4: " in out and "-> 90 [89, 91]" in out and "\n1 of " in out
    assert "note: settings, seed: 0 in the first, 1 in the second" in out


def test_an_interrupted_evaluation_continues_where_it_stopped(measured, tmp_path):
    def evaluate_until(stopped, output):
        """Until the section of that name, whose measuring is interrupted."""

        def stop(context):
            raise KeyboardInterrupt

        sections = [replace(section, measure=stop) if section.name == stopped else section for section in SECTIONS]
        return measured("fidelity", "drift", "single_step", sections=sections, output=output)

    with pytest.raises(KeyboardInterrupt):
        evaluate_until("drift", "a")
    first = evaluate_until("fidelity", "a")  # it is cached, and so are its rollouts
    with pytest.raises(KeyboardInterrupt):
        evaluate_until("fidelity", "b")  # another folder has another cache
    assert evaluate_until(None, "b") == first
    assert not list(tmp_path.glob("a/parts/*/*.npy"))


def test_the_cache_deletes_only_caches_of_other_keys(tmp_path):
    (tmp_path / "photos").mkdir()
    old = ResultCache(tmp_path, "0" * 16)
    assert old.value("x", lambda: 1) == 1
    assert ResultCache(tmp_path, "0" * 16).value("x", lambda: 2) == 1
    assert ResultCache(tmp_path, "1" * 16).value("x", lambda: 2) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1" * 16, "photos"]


def test_without_data_real_play_is_collected(measured, tmp_path, capsys):
    report = measured("counterfactuals", data=None)
    assert "collecting 11 records of pong" in capsys.readouterr().out
    assert len(list(tmp_path.glob("a/parts/play-*/test/*.array_record"))) == 1
    assert "controllability" in report["counterfactuals"]["by_frame"][0]
    measured("counterfactuals", data=None, num_steps=1)  # the same play again
    assert "collecting" not in capsys.readouterr().out


def test_if_the_game_state_cannot_be_saved_the_other_sections_are_measured(measured, monkeypatch, capsys):
    calls = []

    def cannot(self):
        calls.append(self)
        raise ValueError("pong is not reproducible")

    monkeypatch.setattr(PongVectorEnv, "get_state", cannot)
    report = measured("fidelity", "counterfactuals", "sweep")
    assert len(calls) == 1  # not once for each row of the sweep: games can be slow
    assert report["counterfactuals"] == {"not_measured": "pong is not reproducible"}
    assert "pong is not reproducible" in capsys.readouterr().err
    assert "dream" in report["fidelity"] and "controllability_4" not in report["sweep"][0]


def test_a_game_that_is_not_available(run, measured, monkeypatch):
    def missing(*arguments, **options):
        raise ValueError("Procgen is not installed: run ./setup.sh, or use --env pong")

    monkeypatch.setattr("dreamrun.evaluation.context.open_recorded", missing)
    assert "Procgen is not installed" in measured("counterfactuals")["counterfactuals"]["not_measured"]
    monkeypatch.setattr("dreamrun.evaluation.context.collect", missing)
    refused(run("--output", "b", data=None), "give --data DIR", "Procgen is not installed")


def test_an_export_is_measured_in_place_of_its_checkpoint(run, tmp_path, checkpoint):
    (tmp_path / "model.onnx").write_bytes(export_onnx(WorldModel.from_pretrained(checkpoint)))
    printed = succeeded(run("--output", "a", "--onnx", "model.onnx"))
    assert "Controllability at frame 1" in printed
    report = read_figures(tmp_path / "a")
    assert report["settings"]["onnx"] == "model.onnx" and "dream" in report["fidelity"]
    assert "an exported network" in report["drift"]["not_measured"] == report["objects"]["not_measured"]
    assert "an exported network" in (tmp_path / "a" / "report.md").read_text()


@pytest.mark.slow
def test_frames_beyond_the_end_of_clips_do_not_count(run, tmp_path):
    """Rollouts longer than the records: each frame is compared with the clips that reach it."""
    assert run(*LITTLE[1:], "drift_frames=20", "--output", "a", "--num-frames", "400", "--num-clips", 2)[0] == 0
    report = read_figures(tmp_path / "a")
    assert report["drift"] == {"not_measured": "long rollouts of 20 frames are shorter than a window of 30"}
    psnr = report["fidelity"]["dream"]["psnr"]
    assert len(psnr) < 160 and psnr[-1]["n"] <= psnr[0]["n"] == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--num-prompt-frames", 9), ("num_prompt_frames is 9", "room for 5")),
        (("--sizes", "drift=9"), ("sizes has 'drift=9'", "drift_frames")),
        (("--sizes", "drift_frames=0"), ("sizes has 'drift_frames=0'",)),
        (("--sizes", "sweep_steps=1,x"), ("sizes has 'sweep_steps=1,x'", "sweep_steps=1,4")),
        (("--compare", "a", "b"), ("no report at a",)),
    ],
)
def test_wrong_options_are_explained(run, options, words):
    refused(run(*options), *words)


def test_wrong_checkpoints_and_reports_are_explained(run, tmp_path, run_script):
    random_model(TINY).save_pretrained(tmp_path / "small_frames")
    refused(run("--checkpoint", tmp_path / "small_frames"), "frames of 24x16", "64x64")
    refused(run("--checkpoint", tmp_path / "small_frames", data=None), "give --data DIR", "unknown environment")
    broken = random_model(replace(SMALLEST, num_actions=3))
    broken.action_embedding.weight.data.fill_(float("nan"))
    broken.save_pretrained(tmp_path / "broken")
    refused(run("--checkpoint", tmp_path / "broken"), "weights are not finite")
    (tmp_path / "text.json").write_text("{}")
    refused(run("--compare", "text.json", "text.json"), "is not a report.json")
    refused(run_script("evaluate", "--quick"), "--checkpoint", "--compare")


def test_a_report_without_any_measurement_can_be_written_figures(tmp_path):
    missing = {"not_measured": "there was nothing"}
    report = {section.name: missing for section in SECTIONS} | {
        "checkpoint": {"name": "x", "weights_sha256": "0" * 64, "parameters": 1, "config": {}},
        "data": {"folder": "d", "split": "test", "environment": "pong", "environment_options": {}, "records": 0},
        "settings": {
            "num_prompt_frames": 4, "num_steps": 2, "guidance": 1.0, "context_noise": 0.0, "seed": 0, "quick": True,
            "drift_frames": 1,
        },
        "cost": {"gflop_per_frame": 1.0},
        "timings": {"device": "CPU", "frame_ms": {"2 steps, guidance 1": 10.0}, "section_secs": {}},
    }  # fmt: skip
    write_report(tmp_path, report)
    headings = [section.heading for section in SECTIONS if section.heading]
    assert (tmp_path / "report.md").read_text().count("Not measured: there was nothing.") == len(headings)
