"""Makes the built-in spoken words with espeak-ng: `python scripts/make_speech.py`. Only needed to change the voices.

Every voice says every word in a few takes that differ in pitch and speed. A clip is cut at its silent ends, brought to one loudness and to
8 kHz mono; the clips of a voice are joined, with a short gap, into one Ogg Opus file. `index.json` holds the clips' lengths.
"""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path

import numpy as np
import soundfile
import soxr

from chiasm.data.scenes.things import THINGS

FOLDER = Path(__file__).parents[1] / "src/chiasm/data/scenes/speech"
RATE, GAP = 8000, 240  # Hz; samples of silence after each clip
# split: (change of pitch, words a minute) of each take
TAKES = {"train": ((0, 150), (8, 175), (-8, 130)), "validation": ((0, 150), (6, 165)), "test": ((0, 150), (6, 165))}
MOST_BYTES = 1_500_000

VOICES = {  # name: (split, espeak-ng voice, pitch)
    "adam": ("train", "en-us+m1", 40),
    "bill": ("train", "en+m2", 45),
    "carl": ("train", "en-gb-scotland+m3", 50),
    "dave": ("train", "en-us+m4", 55),
    "earl": ("train", "en-gb-x-gbclan+m6", 45),
    "finn": ("train", "en-029+m7", 50),
    "glen": ("train", "en-gb-x-gbcwmd+m8", 50),
    "hank": ("train", "en-us-nyc+max", 50),
    "ivan": ("train", "en-us+klatt", 45),
    "jack": ("train", "en+klatt2", 50),
    "karl": ("train", "en-gb-x-rp+edward", 40),
    "liam": ("train", "en-us+Michael", 55),
    "anna": ("train", "en-us+f1", 55),
    "beth": ("train", "en+f2", 50),
    "cora": ("train", "en-gb-scotland+f3", 60),
    "dora": ("train", "en-gb-x-rp+f4", 55),
    "elsa": ("train", "en-us+belinda", 50),
    "faye": ("train", "en-gb-x-gbclan+linda", 55),
    "gwen": ("train", "en-029+Annie", 60),
    "hope": ("train", "en-us-nyc+steph2", 50),
    "ines": ("validation", "en-us+Alicia", 50),
    "june": ("test", "en+f5", 55),
    "mike": ("test", "en-us+m5", 50),
}


def main() -> None:
    silent_fallbacks = {name for name, (_, voice, _) in VOICES.items() if spoken(voice) in (spoken(voice.split("+")[0]), spoken("en-gb"))}
    assert not silent_fallbacks, f"espeak-ng does not know the voices of {silent_fallbacks} and would use its plain one"
    described: dict[str, str] = {}  # voice -> its entry in the index, as JSON
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, (split, voice, pitch) in VOICES.items():
        takes = [[say(word, voice=voice, pitch=pitch + change, speed=speed) for word in THINGS] for change, speed in TAKES[split]]
        joined = np.concatenate([np.concatenate([clip, np.zeros(GAP, np.float32)]) for take in takes for clip in take])
        soundfile.write(FOLDER / f"{name}.ogg", joined, RATE, format="OGG", subtype="OPUS", compression_level=1.0)
        entry = {"split": split, "espeak": voice, "lengths": [[len(clip) for clip in take] for take in takes]}
        described[name] = json.dumps(entry, separators=(",", ":"))
        print(f"{name}: {len(joined) / RATE:.0f} s, {(FOLDER / f'{name}.ogg').stat().st_size} bytes")
    head = json.dumps({"rate": RATE, "gap": GAP, "words": list(THINGS)})[:-1]
    lines = ",\n".join(f'  "{name}": {entry}' for name, entry in described.items())
    (FOLDER / "index.json").write_text(f'{head}, "voices": {{\n{lines}\n}}}}\n', encoding="utf-8")
    total = sum(path.stat().st_size for path in FOLDER.iterdir())
    print(f"{total} bytes in all")
    assert total <= MOST_BYTES, f"{total} bytes are more than the {MOST_BYTES} that the package allows"


def spoken(voice: str, *, word: str = "umbrella", pitch: int = 50, speed: int = 150) -> bytes:
    """What espeak-ng says, as the bytes of a wav file."""
    command = ["espeak-ng", "-v", voice, "-p", str(pitch), "-s", str(speed), "--stdout", word]
    return subprocess.run(command, check=True, capture_output=True).stdout


def say(word: str, *, voice: str, pitch: int, speed: int) -> np.ndarray:
    """One clip: float32 [frames] at RATE, peak 0.8, cut to where it is louder than a hundredth of its peak."""
    samples, rate = soundfile.read(io.BytesIO(spoken(voice, word=word, pitch=pitch, speed=speed)), dtype="float32")
    samples = soxr.resample(samples, rate, RATE)
    samples *= 0.8 / np.abs(samples).max()
    loud = np.flatnonzero(np.abs(samples) > 0.01)
    return samples[max(0, loud[0] - 80) : loud[-1] + 160]


if __name__ == "__main__":
    main()
