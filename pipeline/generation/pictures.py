"""Pictures as people see them: RGB, and PNG with provenance inside.

Dimension names: ``batch``; ``side`` (pixels).
"""

import io
from collections.abc import Mapping

from jaxtyping import Float
from PIL import Image, PngImagePlugin
from torch import Tensor

from pipeline.models.pictures import to_bytes

SOFTWARE = "unclip-pipeline"


def to_images(pictures: Float[Tensor, " batch 3 side side"]) -> list[Image.Image]:
    """Pictures in [-1, 1], channel first → RGB pictures."""
    rows = to_bytes(pictures).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return [Image.fromarray(row) for row in rows]


def models_as_facts(fingerprints: Mapping[str, str]) -> dict[str, str]:
    """The models of a stack as text entries of a PNG: the first digits of each weights file."""
    return {f"Model {name}": sha256[:16] for name, sha256 in fingerprints.items()}


def png_bytes(picture: Image.Image, provenance: Mapping[str, str]) -> bytes:
    """Encode as PNG; every PNG says that it is generated, by what and from what.

    Args:
        picture: The picture.
        provenance: Text entries beside ``Software`` and ``Generated``, such as prompt and seed.
    """
    texts = PngImagePlugin.PngInfo()
    for name, value in {"Software": SOFTWARE, "Generated": "true", **provenance}.items():
        texts.add_itxt(name, value)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", pnginfo=texts)
    return buffer.getvalue()
