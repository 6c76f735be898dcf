"""The picture in a request, and the fields beside it."""

from dataclasses import dataclass

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from detheads.deploy.serving.refusals import Refused

MOST_FIELDS = 32
"""Fields of a form; ours has none, those of camera software have three."""


@dataclass(frozen=True)
class Upload:
    """``content``: bytes of the file. ``fields``: the other fields of the form, empty where there is no form."""

    content: bytes
    fields: dict[str, str]


class _InMemory(MultiPartParser):
    """Files stay in memory: the body they come from is there already, and bounded."""

    spool_max_size = 1 << 62


async def read_upload(request: Request, field: str = "image") -> Upload:
    """The file of a form (``multipart/form-data``) or the body itself, whatever type it claims to have.

    Args:
        field: name of the form's field with the file.

    Raises:
        Refused: 400 when the form is broken or has no such file.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return Upload(await request.body(), {})
    try:
        parser = _InMemory(request.headers, request.stream(), max_files=1, max_fields=MOST_FIELDS)
        form = await parser.parse()
    except MultiPartException as error:
        raise Refused(400, f"the form cannot be read ({error.message.rstrip('.')}); send it again.") from None
    file = form.get(field)
    if not isinstance(file, UploadFile):
        raise Refused(400, f"the form has no file in its field {field!r}; send the picture there.")
    fields = {name: value for name, value in form.items() if isinstance(value, str)}
    return Upload(await file.read(), fields)
