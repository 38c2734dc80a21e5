"""The command `dreamrun NAME`, and the start of every command: parse options into a dataclass.

A user's mistake is printed as one line, with exit code 2. Slow imports wait until a command is known: `dreamrun --help`
answers at once.
"""

from dreamrun import startup  # isort: skip  before all slow imports

import contextlib
import difflib
import importlib
import io
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn, get_type_hints

# Name -> module, and one line of help. `dreamrun NAME` and `python -m scripts.MODULE` are the same.
COMMANDS = {
    "play": ("scripts.play", "play a model in the browser"),
    "infer": ("scripts.infer", "generate rollouts as a video, and compare them with recorded play"),
    "edit": ("scripts.edit", "extend, join, loop and restyle clips"),
    "collect": ("scripts.collect", "play a real game into a data set"),
    "import": ("scripts.import_video", "turn recordings of any game into a data set"),
    "visualize": ("scripts.visualize_dataset", "inspect a data set: counts, checks, and a video"),
    "train": ("train_world_model", "train a world model on a data set"),
    "evaluate": ("scripts.evaluate", "write a report on a checkpoint: fidelity, controllability, drift, cost"),
    "compare-drift": ("scripts.compare_drift", "compare how long rollouts of several checkpoints and settings drift"),
    "judge-words": ("scripts.judge_words", "judge whether words alone name the right game"),
    "plot-scaling": ("scripts.plot_scaling", "plot quality against the compute of training"),
    "train-agent": ("scripts.train_agent", "train an agent in the dream or in the real game"),
    "score-agent": ("scripts.score_agent", "score an agent in the real game or in the dream"),
    "export-checkpoint": ("scripts.export_checkpoint", "write a small checkpoint with a model card, for publishing"),
    "export-onnx": ("scripts.export_onnx", "export a checkpoint to ONNX"),
    "export-web": ("scripts.export_web", "write a static web site that plays a checkpoint without a server"),
    "export-space": ("scripts.export_space", "write a Hugging Face Space that plays a checkpoint"),
    "upload": ("scripts.upload_checkpoint", "upload a checkpoint to the Hugging Face Hub"),
    "import-open-oasis": ("scripts.import_open_oasis", "convert a published open-oasis or CoinRun checkpoint"),
    "benchmark": ("scripts.benchmark", "measure speed"),
    "gpu-check": ("scripts.gpu_check", "check on a GPU what a CPU cannot show"),
}
# Libraries that the package does not need for play and training -> the extra that has them.
EXTRAS = {"onnx": "export", "onnxruntime": "export", "stable_baselines3": "rl"}
ERROR_EXIT_CODE = 2  # for a user's mistake
ERROR_DELAY_SECS = 5.0  # in which torchrun ends the ranks above 0 if rank 0 has failed too
MAX_ERROR_CHARS = 1000  # of the line that is printed
# Old spellings of options -> today's. The old spellings still work, but no help text shows them.
RENAMED_OPTIONS = {
    "--own-frames": "--scheduled-sampling",
    "--recompute": "--activation-checkpointing",
    "--no-recompute": "--no-activation-checkpointing",
    "--drift-dreams": "--num-long-rollouts",
    "--no-compile": "--compile=off",
}
DEFAULT_VALUES = {"--compile": "on"}  # of options that can stand alone


def print_error(message: str) -> None:
    """Print why this process fails. An error that all ranks of a training have is printed by rank 0 alone."""
    if os.environ.get("RANK", "0") not in ("0", ""):
        time.sleep(ERROR_DELAY_SECS)
    print(f"error: {message}", file=sys.stderr, flush=True)


def main() -> None:
    """Run the command that the command line names."""
    name, *options = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        print("usage: dreamrun COMMAND [options]\n\nWorld models that anyone can train and play.\n")
        print("\n".join(f"  {command:{width}}  {text}" for command, (_, text) in COMMANDS.items()))
        print("\n`dreamrun COMMAND --help` lists the options of a command.")
        return
    if name not in COMMANDS:
        (nearest,) = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0)
        print_error(f"there is no command {name!r:.80}: did you mean {nearest}? `dreamrun --help` lists them all")
        sys.exit(ERROR_EXIT_CODE)
    sys.argv = [f"dreamrun {name}", *options]
    module_name, _ = COMMANDS[name]
    try:
        module = importlib.import_module(f"dreamrun.{module_name}")
    except ModuleNotFoundError as error:
        _exit_without_library(error)
    # The examples in its text are for a clone of the repository.
    run(module.main, re.sub(rf"python (-m )?{module_name}(\.py)?", f"dreamrun {name}", module.__doc__ or ""))


def command_line(name: str) -> str:
    """The command `name` that runs in this process, as a user would type it."""
    return shlex.join(["dreamrun", name, *sys.argv[1:]])


def run(function: Callable[[Any], None], description: str | None = None) -> None:
    """Parse the command line into what `function` takes, a dataclass of options, call it, and exit.

    `ValueError` and `OSError` are mistakes of the user: one line on standard error, exit code 2.
    With DREAMRUN_DEBUG=1 in the environment the traceback is shown as well.
    """
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show is escaped
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    is_process = False  # whether this is the command's own process, in which Ctrl-C was handled since its start
    try:
        is_process = startup.raise_on_interrupt()
        hints = get_type_hints(function, include_extras=True)
        (config_class,) = (hint for name, hint in hints.items() if name != "return")
        function(_parse(config_class, description))
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":
            print("stopped", file=sys.stderr)
        # Python remembers an interrupt inside of `exec`, such as of a dataclass that is made, even if it is caught. It
        # would end itself with SIGINT in place of the exit code. The next `exec` makes it forget.
        exec("")
        sys.exit(startup.INTERRUPTED_EXIT_CODE)
    except BrokenPipeError:  # the reader of our output, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except ModuleNotFoundError as error:
        _exit_without_library(error)
    except (ValueError, OSError) as error:
        if os.environ.get("DREAMRUN_DEBUG"):
            raise
        print_error(_one_line(str(error)))
        sys.exit(ERROR_EXIT_CODE)
    finally:
        if is_process:  # Python may take a second to end, in which Ctrl-C would give a traceback
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def _exit_without_library(error: ModuleNotFoundError) -> NoReturn:
    """Say which extra has a library that is not installed."""
    library = (error.name or "").partition(".")[0]
    if library not in EXTRAS:
        raise error
    print_error(f"{library} is not installed: pip install 'dreamrun[{EXTRAS[library]}]'")
    sys.exit(ERROR_EXIT_CODE)


def _parse(config_class: type, description: str | None) -> Any:
    """Parse the command line with tyro, but report a mistake in one line in place of tyro's framed box."""
    import tyro

    message = io.StringIO()
    if description:  # keep every example on its own line: tyro joins lines that no empty line separates
        description = re.sub(r"(?<!\n)\n(?!\n)", "\n\n", description)
    try:
        with contextlib.redirect_stderr(message):
            return tyro.cli(config_class, description=description, args=modern_arguments(sys.argv[1:]))
    except SystemExit as stop:
        if not stop.code:
            raise
        text = re.sub(r"^│ ─+ │$", "; ", message.getvalue(), flags=re.MULTILINE)
        text = re.sub(r"^╭.*╮$|[│╰╯─]|Error parsing \w+Config: ", "", text, flags=re.MULTILINE)
        raise ValueError(text) from None


def modern_arguments(words: list[str]) -> list[str]:
    """The words of a command line with today's options, each with a value if it needs one."""
    arguments = []
    for word, following in zip(words, [*words[1:], "--"], strict=False):
        arguments.append(_rename_option(word))
        if word in DEFAULT_VALUES and following.startswith("--"):
            arguments.append(DEFAULT_VALUES[word])
    return arguments


def _rename_option(word: str) -> str:
    """Replace the old spelling of an option, `--name` or `--name=value`; other words stay as they are."""
    name, equals, value = word.partition("=")
    return RENAMED_OPTIONS.get(name.replace("_", "-"), name) + equals + value if name.startswith("--") else word


def _one_line(message: str) -> str:
    from dreamrun.games.untrusted import printable

    line = printable(" ".join(message.split()).replace(" ; ", "; "))  # it may quote a file of a stranger
    return line if len(line) <= MAX_ERROR_CHARS else f"{line[:MAX_ERROR_CHARS]}..."
