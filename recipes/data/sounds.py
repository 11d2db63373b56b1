r"""Write notes of instruments and named samples as audio files with tables, for `sounds.yaml`.

    apt install fluidsynth fluid-soundfont-gm sonic-pi-samples
    python recipes/data/sounds.py data/sounds

The notes are rendered from the soundfont Fluid R3 GM (MIT): each of its 128 instruments, at
`TRAIN_NOTES` and at `TEST_NOTES`, soft and loud. The samples are those of Sonic Pi (CC0); the name
of a file, such as `drum_snare_hard`, is its caption. The tables are `notes_train.jsonl`,
`notes_test.jsonl` and `samples.jsonl`. Files that exist are not made again.
"""

import argparse
import json
import shutil
import struct
import subprocess
import wave
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from coca.core.errors import ConfigError
from coca.core.files.atomic import write_atomic

SOUNDFONT = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")
SAMPLES = Path("/usr/share/sonic-pi/samples")
RATE = 16_000
TRAIN_NOTES = range(36, 84, 4)
"""MIDI numbers of the notes to train on: C2 to G#5 in major thirds."""
TEST_NOTES = range(38, 84, 12)
"""Notes between those: D2, D3, D4 and D5."""
VELOCITIES = (60, 110)
_SOUNDING_S, _APART_S, _TICKS_A_SECOND = 1.2, 2.0, 960


def instruments(soundfont: bytes) -> dict[int, str]:
    """Read the names of the instruments of bank 0 from a SoundFont 2 file; program -> name."""
    start = soundfont.index(b"phdr") + 8
    size = int.from_bytes(soundfont[start - 4 : start], "little")
    found = {}
    for at in range(start, start + size - 38, 38):
        name, program, bank = struct.unpack_from("<20sHH", soundfont, at)
        if bank == 0 and program < 128:
            found[program] = name.split(b"\0")[0].decode("ascii").strip().lower()
    return found


def midi_file(program: int, notes: Sequence[tuple[int, int]]) -> bytes:
    """Write a Standard MIDI File that plays notes (number, velocity) one after the other."""
    events = bytes([0, 0xC0, program])
    for number, velocity in notes:
        events += bytes([0, 0x90, number, velocity])
        events += _ticks(_SOUNDING_S) + bytes([0x80, number, 0])
        events += _ticks(_APART_S - _SOUNDING_S) + bytes([0xB0, 120, 0])  # all sound off
    events += bytes([0, 0xFF, 0x2F, 0])
    # A quarter note lasts half a second unless the tempo is set.
    header = b"MThd" + struct.pack(">IHHH", 6, 0, 1, _TICKS_A_SECOND // 2)
    return header + b"MTrk" + struct.pack(">I", len(events)) + events


def _ticks(seconds: float) -> bytes:
    """Encode a delay as MIDI does: 7 bits a byte, the highest bit set but in the last."""
    ticks = round(seconds * _TICKS_A_SECOND)
    return bytes([0x80 | ticks >> 7, ticks & 0x7F])


def render(program: int, notes: Sequence[tuple[int, int]], folder: Path) -> Iterator[bytes]:
    """Render notes with FluidSynth; yield each as mono samples of 16 bits."""
    score, audio = folder / "score.mid", folder / "score.wav"
    score.write_bytes(midi_file(program, notes))
    command = ["fluidsynth", "-niq", "-g", "0.5", "-r", str(RATE), "-F", str(audio)]
    subprocess.run([*command, str(SOUNDFONT), str(score)], check=True, capture_output=True)
    with wave.open(str(audio)) as file:
        stereo = memoryview(file.readframes(file.getnframes())).cast("h")
    left = stereo[::2].tobytes()
    for position in range(len(notes)):
        start = round(position * _APART_S * RATE) * 2
        yield left[start : start + round((_SOUNDING_S + 0.3) * RATE) * 2]


def write_notes(folder: Path) -> None:
    """Render all notes of all instruments, and write both tables."""
    notes = [(number, it) for number in [*TRAIN_NOTES, *TEST_NOTES] for it in VELOCITIES]
    rows: dict[str, list[Mapping[str, Any]]] = {"train": [], "test": []}
    named = instruments(SOUNDFONT.read_bytes())
    (folder / "notes").mkdir(parents=True, exist_ok=True)
    for program, name in sorted(named.items()):
        paths = [folder / "notes" / f"{program:03}-{n:03}-{v:03}.wav" for n, v in notes]
        if not all(path.exists() for path in paths):
            with TemporaryDirectory() as scratch:
                for path, samples in zip(paths, render(program, notes, Path(scratch)), strict=True):
                    with wave.open(str(path), "wb") as file:
                        file.setparams((1, 2, RATE, 0, "NONE", ""))
                        file.writeframes(samples)
        for path, (number, velocity) in zip(paths, notes, strict=True):
            row = {"audio": f"notes/{path.name}", "label": name, "note": number}
            part = "train" if number in TRAIN_NOTES else "test"
            rows[part].append({**row, "velocity": velocity})
        if program % 16 == 15:
            print(f"{program + 1} of {len(named)} instruments", flush=True)
    for part, listed in rows.items():
        _write_table(folder / f"notes_{part}.jsonl", listed)


def write_samples(folder: Path) -> None:
    """Copy the samples of Sonic Pi and write their table."""
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    rows = []
    for path in sorted(SAMPLES.glob("*.flac")):
        shutil.copyfile(path, folder / "samples" / path.name)
        rows.append({"audio": f"samples/{path.name}", "label": path.stem.replace("_", " ")})
    _write_table(folder / "samples.jsonl", rows)


def _write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
    print(f"{path}: {len(rows):,} rows")


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder to write to")
    folder = parser.parse_args().folder
    if shutil.which("fluidsynth") is None or not (SOUNDFONT.exists() and SAMPLES.exists()):
        raise ConfigError("apt install fluidsynth fluid-soundfont-gm sonic-pi-samples, first")
    write_notes(folder)
    write_samples(folder)


if __name__ == "__main__":
    main()
