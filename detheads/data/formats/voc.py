"""Pascal VOC: one XML file a picture, corners in pixels as written.

VOC's own pictures count from 1 and most tools that write the format count from 0, so nothing is subtracted. Objects
marked ``difficult`` are crowds: VOC's evaluation leaves them out too.
"""

from collections.abc import Iterator
from pathlib import Path

from detheads.data.marks import Mark, Marked, corners, parse_xml, whole_size

SUFFIX = ".xml"
SAYS = "Pascal VOC XML files"


def read(path: Path) -> Iterator[Marked]:
    """The picture of one XML file; nothing when it is another kind of XML.

    Raises:
        ValueError: the file is no XML.
    """
    from globox import BoundingBox
    from globox.errors import ParsingError

    root = parse_xml(path)
    if root.tag != "annotation":
        return
    name = (root.findtext("filename") or "").strip() or path.stem
    marked = Marked(path, name, whole_size(root.findtext("size/width"), root.findtext("size/height")))
    marked.alias = path.stem
    for number, node in enumerate(root.findall("object"), start=1):
        crowd = (node.findtext("difficult") or "").strip() == "1"
        try:
            box = BoundingBox.from_xml(node)
            marked.marks.append(Mark(box.label.strip(), corners(box), crowd))
        except AssertionError:
            # Corners in the wrong order are kept as they are: such boxes are dropped, counted and judged later.
            x1, y1, x2, y2 = (float(node.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
            marked.marks.append(Mark((node.findtext("name") or "").strip(), (x1, y1, x2, y2), crowd))
        except (ParsingError, ValueError):
            marked.bad.append(f"object {number} has no name or no whole 'bndbox'")
    yield marked
