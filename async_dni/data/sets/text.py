"""The characters of a user's text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ...foundation.error import ConfigError
from ..text_dataset import TextDataset
from .data_set import DatasetSpec

SEQUENCE_LENGTH = 64
HELD_OUT = 10  # per cent of the characters, the last ones: the test set


def load_text(data_dir: Path, sequence_length: int | None = None) -> tuple[TextDataset, TextDataset]:
    """The first nine tenths of the characters of the file `data_dir`, and the last, which are held out.

    The vocabulary is that of the whole file, in the order of code points. Raises `ConfigError` where it is no file of text, or
    too short for a sequence in each part.
    """
    length = sequence_length or SEQUENCE_LENGTH
    try:
        text = data_dir.read_bytes().decode()
    except FileNotFoundError:
        raise ConfigError("data_dir", data_dir, "there is no such file; allowed: a file of text, in UTF-8") from None
    except IsADirectoryError:
        raise ConfigError("data_dir", data_dir, "this is a directory; allowed: a file of text, in UTF-8") from None
    except UnicodeDecodeError as error:
        raise ConfigError("data_dir", data_dir, f"byte {error.start} is no UTF-8; allowed: a file of text") from None
    except OSError as error:
        raise ConfigError("data_dir", data_dir, f"it can't be read ({error.strerror})") from None
    held_out = len(text) * HELD_OUT // 100
    if held_out < length + 1:
        most = f"its {len(text)} characters are too few for sequences of {length}: a tenth of them is to hold one"
        raise ConfigError("sequence_length", length, f"{most}; allowed: 1 to {held_out - 1}" if held_out > 1 else most)
    points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    vocabulary, places = np.unique(points, return_inverse=True)
    small = torch.uint8 if len(vocabulary) <= 256 else torch.int32
    characters = torch.from_numpy(places.reshape(-1)).to(small)
    letters = "".join(map(chr, vocabulary.tolist()))
    parts = characters.split([len(text) - held_out, held_out])
    train, test = (TextDataset(part.clone(), letters, length) for part in parts)
    return train, test


TEXT = DatasetSpec(
    name="text",
    help="the characters of a file, --data-dir FILE",
    load=load_text,
    num_classes=None,
    settings=("sequence_length",),
)
