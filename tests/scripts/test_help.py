"""The help texts of the commands."""

import re

import pytest
from tiny import succeeded

COMMANDS = ("collect", "infer", "evaluate", "visualize_dataset", "play")


def option_texts(help_text: str) -> dict[str, str]:
    """The text of each option, without tyro's frame and the default."""
    lines = [re.sub(r"^[│ ] ?|│$", "", line).rstrip() for line in help_text.splitlines() if line[:1] in ("│", " ")]
    texts, name = {}, None
    for line in lines:
        if match := re.match(r"(?:-\w, )?(--[\w-]+)(?:, --[\w-]+)*(?: \S*[A-Z{].*?)?(?:  +|$)(.*)", line):
            name, line = match[1], match[2]
            texts[name] = ""
        if name:
            texts[name] += " " + line.strip()
    return {name: re.sub(r"\((default: .*|required)\)", "", text).strip() for name, text in texts.items()}


def help_of(command, run_script, *options) -> dict[str, str]:
    out = succeeded(run_script(command, *options, "--help"))
    return option_texts(out)


@pytest.mark.parametrize("command", COMMANDS)
def test_seed_and_data_have_a_text_of_their_own(command, run_script):
    texts = help_of(command, run_script)
    for name in {"--seed", "--data"} & texts.keys():
        assert texts[name], f"{command} {name}"
        assert list(texts.values()).count(texts[name]) == 1, f"{command} {name}: {texts[name]}"


def test_help_of_training_and_benchmarks(train_command, run_script):
    code, out, _ = train_command("--help")
    texts = option_texts(out)
    assert code == 0 and "initial weights" in texts["--seed"] and "data set" in texts["--data"]
    for benchmark in ("loader", "train", "play"):
        assert "data set" in help_of("benchmark", run_script, benchmark)["--data"]
    assert "levels" in help_of("collect", run_script)["--seed"]
