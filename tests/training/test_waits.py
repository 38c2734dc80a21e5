"""What a GPU would have to do in a training step and in a frame, counted without one (tests/fake_cuda.py)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def cuda_torch():
    """A folder with this version of torch, built with CUDA: four gigabytes, installed there if it is missing."""
    folder = Path(os.environ.get("DREAMRUN_CUDA_TORCH", Path.home() / ".cache" / "dreamrun" / "cuda-torch"))
    if not (folder / "torch").is_dir():
        version = torch.__version__.split("+")[0]
        print(f"installing torch {version} with CUDA into {folder}")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", folder, f"torch==={version}"]
        subprocess.run(pip, check=True)
    return folder


@pytest.mark.slow
def test_no_step_and_no_frame_waits_for_the_device(cuda_torch):
    python_path = os.pathsep.join(map(str, (cuda_torch, os.environ.get("PYTHONPATH", ""))))
    command = [sys.executable, TESTS / "fake_cuda.py", "nano", "8"]
    output = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": python_path}, capture_output=True, text=True, check=True, cwd=TESTS
    ).stdout
    results = json.loads(output[output.index("{") :])
    assert len(results) == 7
    assert {kind: result["waits"] for kind, result in results.items() if result["waits"]} == {}
    assert all(result["kernels"] > 100 for result in results.values())
