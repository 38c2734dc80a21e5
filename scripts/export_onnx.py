"""Export a checkpoint to ONNX: a forward pass over one frame, with the keys and values of past frames as inputs.

python -m scripts.export_onnx --checkpoint checkpoints/pong-pico --out model.onnx
python -m scripts.export_onnx --checkpoint checkpoints/pong-pico --out model.onnx --weights int8

export/onnx.py describes the inputs and outputs, and export/onnx_sampler.py generates frames from the file.
"""

from dataclasses import dataclass
from pathlib import Path

from dreamrun import cli
from dreamrun.data.atomic import atomic_file, check_output
from dreamrun.export.onnx_graph import Weights
from dreamrun.export.onnx_sampler import export_checked
from dreamrun.model import WorldModel
from dreamrun.model.game_views import fold_text, select_game


@dataclass(frozen=True)
class ExportOnnxConfig:
    """The checkpoint and the file."""

    checkpoint: str  # a checkpoint folder, or "user/name" on the Hub
    out: Path  # the ONNX file; one that is there is replaced
    game: str = ""  # of a checkpoint of several; none: the first
    weights: Weights = "fp32"  # fp16: half the size, computed in float32; int8: a quarter of the size, less exact


def main(config: ExportOnnxConfig) -> None:
    """Export, compare with the original, and write the file."""
    check_output(config.out, suffix=".onnx")
    model = fold_text(select_game(WorldModel.from_pretrained(config.checkpoint), config.game))
    file = export_checked(model, config.weights)
    with atomic_file(config.out) as temporary:
        temporary.write_bytes(file)
    print(f"{config.out}: {len(file) / 1e6:.1f} MB")


if __name__ == "__main__":
    cli.run(main, __doc__)
