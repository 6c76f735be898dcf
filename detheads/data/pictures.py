"""Pictures of a dataset: decoded, and compared with what their annotations say of them."""

from collections.abc import Callable

from PIL import Image

from detheads.data.dataset import ImageRecord
from detheads.foundation.errors import UserError
from detheads.foundation.images import ImageHeader, load_image


def load_picture(record: ImageRecord, on_remark: Callable[[str], None] | None = None) -> Image.Image:
    """Decode one picture of a dataset to RGB and check it; whatever reads pictures with boxes reads them by this.

    Args:
        record: the picture and its annotated size.
        on_remark: called with a sentence about what was left out or looks wrong.

    Raises:
        UserError: when the file cannot be decoded, or is not the annotated picture.
    """
    image = load_image(record.path, on_remark)
    check_picture(record, image)
    return image


def check_picture(record: ImageRecord, picture: Image.Image | ImageHeader) -> None:
    """Refuse a picture (decoded, or only its header) whose size as displayed is not the annotated one.

    Its boxes would be wrong: the picture was replaced, resized, or turned by an EXIF orientation that the annotation
    tool did not apply.

    Raises:
        UserError: when the sizes differ.
    """
    shown, said = (picture.width, picture.height), (record.width, record.height)
    if shown == said:
        return
    cause = (
        "the annotation tool did not apply its EXIF orientation; turn the pixels and drop the tag, or annotate again"
        if shown == said[::-1]
        else "its boxes would be wrong; restore the picture that was annotated"
    )
    raise UserError(
        f"{record.path} has {shown[0]}x{shown[1]} pixels, its annotation says {said[0]}x{said[1]}: {cause}."
    )
