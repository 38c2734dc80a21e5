"""torch.compile that fails, or is stopped while it compiles."""

import os
import signal
import time
from functools import partial

import pytest
import torch
from tiny import SMALLEST, random_inputs, random_model

from dreamrun.training.compiler import CompilationStoppedError, Compiler
from dreamrun.training.state import list_checkpoints

NO_COMPILER = {"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}
REASON = "there is no C++ compiler"


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def full_disk(*_):
    raise RuntimeError("g++ failed") from OSError(28, "No space left on device")


def loss_and_gradients(model, inputs):
    model.zero_grad()
    loss = model(*inputs).square().mean()
    loss.backward()
    return [loss, *(weight.grad for weight in model.parameters())]


@pytest.mark.parametrize("kind", ["no compiler", "full disk"])
def test_auto_goes_on_without_compiling(monkeypatch, capsys, kind):
    model, inputs = random_model(SMALLEST), random_inputs(SMALLEST)
    expected = loss_and_gradients(model, inputs)
    Compiler(falls_back=True).compile(model.blocks)
    if kind == "full disk":
        monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", full_disk)
    with torch._inductor.config.patch(NO_COMPILER):
        for again, wanted in zip(loss_and_gradients(model, inputs), expected, strict=True):
            torch.testing.assert_close(again, wanted)  # GELU and rotary embedding have other code for the compiler
        for again, wanted in zip(loss_and_gradients(model, inputs), expected, strict=True):
            assert torch.equal(again, wanted)
    (warning,) = capsys.readouterr().err.splitlines()
    reason = REASON if kind == "no compiler" else "no space is left on the disk of /"
    assert warning.startswith(f"warning: training goes on without torch.compile: {reason}")


def test_compiling_that_fails_is_one_line(train_command):
    with torch._inductor.config.patch(NO_COMPILER):
        code, _, err = train_command("--compile")
    (line,) = [line for line in err.splitlines() if "error" in line]
    assert code == 2 and line.startswith(f"error: torch.compile failed: {REASON}")
    assert line.endswith("train with --compile off")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_compiling(train_command, tmp_path, monkeypatch, number):
    def minutes(*_):
        os.kill(os.getpid(), number)
        time.sleep(300)

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", minutes)
    start = time.monotonic()
    code, out, err = train_command("--compile", "on")
    assert code == 130 and time.monotonic() - start < 60
    assert "stopped at step 0, saved in" in out and "Traceback" not in err
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["step_0000000"]


def test_nothing_is_compiled_after_a_signal(monkeypatch):
    """The signal came between two compilations of one step."""
    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", partial(pytest.fail, "compiled"))
    compiler = Compiler()
    compiler.stop()
    with pytest.raises(CompilationStoppedError):
        torch.compile(torch.sin, backend=compiler)(torch.ones(2))
