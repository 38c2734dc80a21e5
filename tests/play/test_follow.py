"""What the page shows of a run that is still training."""

import json
from dataclasses import replace

import numpy as np
from browsing import wait_until
from playing import random_checkpoint, serving

from dreamrun.data.video import write_mp4
from dreamrun.play.follow import MAX_POINTS, curves, newest_strip


def write_metrics(run, steps):
    lines = [{"step": step, "train/loss": 10.0 / step, "rollout/psnr_1": 20.0 + step} for step in steps]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_curves_are_those_of_the_run(tmp_path):
    assert [len(table) for table in curves(tmp_path)] == [0, 0]
    write_metrics(tmp_path, range(1, 1001))
    loss, psnr = curves(tmp_path)
    assert len(loss) <= MAX_POINTS and len(psnr) <= MAX_POINTS and len(psnr) > MAX_POINTS / 2
    np.testing.assert_allclose(loss.value, 1 - np.log10(loss.step))
    np.testing.assert_allclose(psnr.value, 20 + psnr.step)
    assert set(loss.metric) == {"train/loss"} and set(psnr.metric) == {"rollout/psnr_1"}


def test_a_link_is_no_strip(tmp_path):
    """The page would show any file of this machine."""
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "rollouts").mkdir()
    (tmp_path / "rollouts" / "step_0000002_actions.mp4").symlink_to(tmp_path / "secret")
    (tmp_path / "rollouts" / "step_0000003_actions.mp4").mkdir()
    assert newest_strip(tmp_path) is None
    (tmp_path / "rollouts" / "step_0000001_actions.mp4").touch()
    assert newest_strip(tmp_path).stem == "step_0000001_actions"


def test_the_page_follows_the_run(tmp_path, pong_set, play_config, visit):
    run, strip = tmp_path / "run", np.zeros((8, 32, 64, 3), np.uint8)
    random_checkpoint(run / "checkpoints" / "step_1", pong_set)
    (run / "checkpoints" / "latest").symlink_to("step_1")
    (run / "rollouts").mkdir()
    write_metrics(run, range(1, 5))
    with serving(replace(play_config, checkpoint=str(run), follow=True), renew_secs=0.5) as address:
        page = visit(address)
        wait_until(lambda: "log10 of the loss" in page.inner_text("#run"))
        wait_until(lambda: page.locator("#run canvas, #run svg.marks").count() >= 2)
        assert not page.locator("#strip video").count()
        for number in (4, 8):
            write_mp4(run / "rollouts" / f"step_{number:07d}_actions.mp4", strip, 15.0)
            assert newest_strip(run).stem == f"step_{number:07d}_actions"
            wait_until(lambda number=number: f"step_{number:07d}" in page.inner_text("#strip"))
            wait_until(lambda number=number: f"step_{number:07d}" in page.get_attribute("#strip video", "src"))
        page.close()  # it would ask the stopped server
