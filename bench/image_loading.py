"""Goal S8: opening JPEG pictures for a vision encoder, against transformers' ViTImageProcessorPil on the same files.

Prints, per picture size: the median over interleaved rounds of the ratio of process CPU time (theirs / ours, one thread), and the
mean difference of the resulting pixels in 1/255. The pictures are the two photographs in scikit-learn's wheel, brought to size.

    python bench/image_loading.py [--rounds 7] [--pictures 24] [--quality 75]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import PIL.Image
import torch
from sklearn.datasets import load_sample_images
from transformers import ViTImageProcessorPil

from chiasm.media.image import Image

SIZES = {(320, 240): 2.0, (1600, 1200): 6.0}  # width, height -> the ratio wanted
MOST_DIFFERENCE = 1.0  # in 1/255


def write_pictures(folder: Path, size: tuple[int, int], count: int, quality: int) -> list[Path]:
    photographs = [PIL.Image.fromarray(pixels) for pixels in load_sample_images().images]
    paths = []
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        left = number // len(photographs) % 8 * 8  # so that no two files are the same
        cut = photograph.crop((left, 0, left + 569, 427)).resize(size, PIL.Image.Resampling.LANCZOS)
        paths.append(folder / f"{number}.jpg")
        cut.save(paths[-1], quality=quality)
    return paths


def cpu_seconds(load: Callable[[list[Path]], torch.Tensor], paths: list[Path]) -> float:
    start = time.process_time()
    load(paths)
    return time.process_time() - start


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--pictures", type=int, default=24)
    arguments.add_argument("--quality", type=int, default=75, help="of the JPEG files; at 90 and more both sides mostly wait for libjpeg")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    processor = ViTImageProcessorPil(size={"height": 224, "width": 224}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    image = Image(Image.Options(size=224))

    def theirs(paths: list[Path]) -> torch.Tensor:
        return processor([PIL.Image.open(path).convert("RGB") for path in paths], return_tensors="pt")["pixel_values"]

    def ours(paths: list[Path]) -> torch.Tensor:
        return image.collate([image.open(path.name, root=str(path.parent))[0] for path in paths])["pixel_values"]

    for size, wanted in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            paths = write_pictures(Path(folder), size, options.pictures, options.quality)
            difference = (theirs(paths) - ours(paths)).abs().mean().item() * 127.5  # also the warm-up
            rounds = [(cpu_seconds(theirs, paths), cpu_seconds(ours, paths)) for _ in range(options.rounds)]
        ratio = statistics.median(peer / own for peer, own in rounds)
        peer, own = (1000 * statistics.median(column) / len(paths) for column in zip(*rounds, strict=True))
        good = ratio >= wanted and difference <= MOST_DIFFERENCE
        print(
            f"S8 {size[0]}x{size[1]}: {ratio:.2f}x of ViTImageProcessorPil (goal {wanted:g}; {peer:.2f} and {own:.2f} ms a picture), "
            f"mean difference {difference:.2f}/255 (goal {MOST_DIFFERENCE:g}): {'reached' if good else 'MISSED'}"
        )


if __name__ == "__main__":
    main()
