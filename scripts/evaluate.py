"""Evaluate a checkpoint against the real game: report.html, report.json and report.md.

python -m scripts.evaluate --checkpoint runs/first/checkpoints/latest --data datasets/coinrun --output report
python -m scripts.evaluate --checkpoint runs/first/checkpoints/latest --quick
python -m scripts.evaluate --compare report/report.json other/report.json
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from dreamrun import cli
from dreamrun.data.atomic import check_output
from dreamrun.evaluation.compare import compare_reports
from dreamrun.evaluation.evaluation_config import EvaluateConfig
from dreamrun.evaluation.evaluator import evaluate
from dreamrun.evaluation.report import REPORT_FILES, summary, write_report
from dreamrun.games.gymnasium import import_environment_module


def main(config: EvaluateConfig) -> None:
    """Evaluate a checkpoint and write its report, or compare two reports."""
    if config.compare:
        print(compare_reports(*config.compare))
        return
    check_output(config.output, is_folder=True, files=REPORT_FILES)
    import_environment_module(config.env_module)
    report = evaluate(config, export_sampler(config.onnx)) if config.onnx else evaluate(config)
    write_report(config.output, report)
    print(summary(report))
    print(f"wrote {config.output}/report.html, report.json and report.md")


def export_sampler(path: Path) -> Callable:
    """What makes rollouts with an exported network, in place of the checkpoint that it was made of."""
    from dreamrun.export.onnx_sampler import OnnxSampler  # onnxruntime takes a while to import

    return partial(OnnxSampler, path.read_bytes())


if __name__ == "__main__":
    cli.run(main, __doc__)
