"""Reads the words in photos, with RapidOCR (extra `ocr`): a detector looks for lines of text, and
only what it finds is read.

In: decoded photos. Out: their texts. The models come with the package; nothing is downloaded.
"""

import importlib.util
from importlib.metadata import version
from typing import Any, Protocol

import numpy as np
from PIL import Image

from catalog.errors import ShelfsortError

SIDE = 352
"""Smaller photos are enlarged until their longer side has so many pixels: letters of 8 pixels on a
photo of 180 are then read, and the detector takes 40 ms."""
LONGEST = 960
"""Larger photos are reduced to that."""


class TextReader(Protocol):
    """Reads the words in a photo. `name` changes whenever the texts may; `kind` is its name in
    READERS."""

    name: str
    kind: str

    def __call__(self, photo: np.ndarray) -> str:
        """The words in a photo uint8 [H, W, 3], line by line; empty if there are none."""


def require_packages(user: str) -> None:
    """Raises ShelfsortError, naming the extra, if its package is not installed."""
    if importlib.util.find_spec("rapidocr") is None:
        raise ShelfsortError(
            f"{user} needs the package rapidocr; install it with: pip install 'shelfsort[ocr]'"
        )


class RapidReader:
    """RapidOCR on ONNX Runtime, on one core: lanes of scoring and threads of extraction call it
    side by side.

        reader = RapidReader("views.cover")
        reader(decode(Path("book.jpg").read_bytes()))  # "The Garden Cook"

    Raises ShelfsortError if the package is not installed; `user` says who needs it.
    """

    def __init__(self, user: str) -> None:
        require_packages(user)
        self.kind = "rapidocr"
        self.name = f"rapidocr-{version('rapidocr')}-{SIDE}"
        self._engine = _engine()

    def __call__(self, photo: np.ndarray) -> str:
        """The words in a photo uint8 [H, W, 3], line by line; empty if there are none. Lines of a
        single character are left out: patterns, wheels and handles are read as such."""
        result = self._engine(fitted(photo)[:, :, ::-1])
        lines = getattr(result, "txts", None) or ()
        return " ".join(line for line in lines if sum(map(str.isalnum, line)) > 1)


def fitted(photo: np.ndarray) -> np.ndarray:
    """The photo with its longer side enlarged to SIDE or reduced to LONGEST, uint8 [H, W, 3]."""
    longer = max(photo.shape[:2])
    wanted = min(max(longer, SIDE), LONGEST)
    if wanted == longer:
        return photo
    height, width = (max(1, round(side * wanted / longer)) for side in photo.shape[:2])
    return np.asarray(Image.fromarray(photo).resize((width, height), Image.Resampling.BICUBIC))


def _engine() -> Any:
    import cv2
    from rapidocr import RapidOCR

    cv2.setNumThreads(1)
    threads = {
        f"EngineConfig.onnxruntime.{scope}_op_num_threads": 1 for scope in ("intra", "inter")
    }
    return RapidOCR(
        params=threads
        | {
            "Global.log_level": "critical",  # it warns of every photo without text
            "Global.use_cls": False,  # of lines that stand on their head
            "Global.use_preprocess_img": False,  # `fitted` did
            "Det.limit_type": "max",
            "Det.limit_side_len": LONGEST,
        }
    )


READERS = {"rapidocr": RapidReader}
"""Readers by the name in the configuration, `views: {cover: {ocr: NAME}}`."""
