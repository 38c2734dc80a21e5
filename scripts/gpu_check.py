"""Check on a GPU all that a CPU cannot show, the most important first: each line is PASS or FAIL with its figure.

python -m scripts.gpu_check
python -m scripts.gpu_check --minutes 12 --out gpu-check
python -m scripts.gpu_check --device cpu --tiny

The last one rehearses all checks with tiny networks, without limits on speed. A check that fails, hangs or crashes does
not stop the others. OUT gets checks.json and checks.md, whose table goes into docs/benchmarks.md as it is.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from dreamrun import cli
from dreamrun.benchmarks.checks import run_checks, write_lines
from dreamrun.benchmarks.cuda_checks import CHECKS, CheckOptions, describe
from dreamrun.data.atomic import check_output
from dreamrun.games.ranges import Range, check_ranges


@dataclass(frozen=True)
class GpuCheckConfig(CheckOptions):
    """Which device, how long, and where the results go."""

    minutes: Annotated[float, Range(0.0)] = 12.0  # checks that do not fit are not run
    out: Path = Path("gpu-check")  # folder for checks.json and checks.md

    def __post_init__(self):
        check_ranges(self)


def main(config: GpuCheckConfig) -> None:
    """Run the checks, print each line as it comes, and write them. Exit code 1 if one has failed."""
    check_output(config.out / "checks.json")
    title, lines = describe(config), []
    print(title)
    for line in run_checks(CHECKS, CheckOptions(config.device, config.tiny), config.minutes):
        print(f"{line.result:8s}{line.name}: {line.figure} ({line.limit}; {line.secs:.0f} s)", flush=True)
        lines.append(line)
        write_lines(config.out, title, lines)
    failed = sum(line.result != "PASS" for line in lines)
    print(f"{len(lines) - failed} of {len(lines)} passed: {config.out / 'checks.md'}")
    raise SystemExit(min(failed, 1))


if __name__ == "__main__":
    cli.run(main, __doc__)
