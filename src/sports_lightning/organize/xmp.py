"""Keywords in XMP sidecars, merged into what a sidecar has; the image itself is never written.

The three fields that photo libraries read: `dc:subject` (flat), `lr:hierarchicalSubject` (levels joined by `|`, an
rdf:Bag, as darktable and Lightroom write it) and `digiKam:TagsList` (levels joined by `/`, an rdf:Seq, as digiKam
writes it). XMP specification: ISO 16684-1.
"""

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable

from sports_lightning.errors import UserError

ROOT = "sports_lightning"  # under which all keywords of this package are
_X = "adobe:ns:meta/"
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_DC = "http://purl.org/dc/elements/1.1/"
_LR = "http://ns.adobe.com/lightroom/1.0/"
_DIGIKAM = "http://www.digikam.org/ns/1.0/"
_PREFIXES = {"x": _X, "rdf": _RDF, "dc": _DC, "lr": _LR, "digiKam": _DIGIKAM}
_CORE = re.compile(rb"<(?:[\w.-]+:)?(xmpmeta|xapmeta|RDF)[\s>].*</(?:[\w.-]+:)?\1\s*>", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]")  # which XML does not have
_EMPTY = f'<x:xmpmeta xmlns:x="{_X}"><rdf:RDF xmlns:rdf="{_RDF}"/></x:xmpmeta>'.encode()


def with_keyword(sidecar: bytes | None, label: str) -> bytes:
    """A sidecar with the keyword of a class.

    Args:
        sidecar: the content of an existing one, of which everything is kept; None: there is none.
        label: the class. Hierarchical keywords under the same root, of an earlier run, are replaced.

    Raises:
        UserError: the content is not XMP.
    """
    head, core, tail = _split(sidecar) if sidecar is not None else (b"", _EMPTY, b"\n")
    tree = _parse(core)
    rdf = tree if tree.tag == f"{{{_RDF}}}RDF" else tree.find(f"{{{_RDF}}}RDF")
    if rdf is None:
        raise UserError("it has no rdf:RDF")
    label = _CONTROL.sub(" ", label)
    _set(rdf, f"{{{_DC}}}subject", "Bag", label, lambda _: False)  # a flat keyword does not tell whose it is
    _set(rdf, f"{{{_LR}}}hierarchicalSubject", "Bag", below_root(label, "|"), lambda text: _is_own(text, "|"))
    _set(rdf, f"{{{_DIGIKAM}}}TagsList", "Seq", below_root(label, "/"), lambda text: _is_own(text, "/"))
    return head + ET.tostring(tree, encoding="utf-8", xml_declaration=False) + tail


def below_root(label: str, separator: str) -> str:
    """A hierarchical keyword of two levels, the second of which is the class, without separators in its name."""
    return f"{ROOT}{separator}{label.replace(separator, '_')}"


def _is_own(text: str, separator: str) -> bool:
    return text == ROOT or text.startswith(ROOT + separator)


def _split(sidecar: bytes) -> tuple[bytes, bytes, bytes]:
    """What is before the XMP element, the element, and what is after it, such as the packet's wrapper."""
    if b"<!DOCTYPE" in sidecar or b"<!ENTITY" in sidecar:
        raise UserError("it has a DOCTYPE, which XMP does not have")
    if sidecar.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError("it is UTF-16: convert it to UTF-8")
    found = _CORE.search(sidecar)
    if found is None:
        raise UserError("it has no XMP in it")
    return sidecar[: found.start()], found[0], sidecar[found.end() :]


def _parse(core: bytes) -> ET.Element:
    try:
        for _, (prefix, uri) in ET.iterparse(io.BytesIO(core), events=["start-ns"]):
            if not re.fullmatch(r"ns\d+|xml", prefix):  # which ElementTree keeps for itself
                ET.register_namespace(prefix, uri)
        for prefix, uri in _PREFIXES.items():
            ET.register_namespace(prefix, uri)
        parser = ET.XMLParser(target=ET.TreeBuilder(insert_comments=True, insert_pis=True))
        return ET.fromstring(core, parser)
    except (ET.ParseError, ValueError) as error:
        raise UserError(f"it is damaged: {error}") from error


def _set(rdf: ET.Element, name: str, kind: str, value: str, replaces: Callable[[str], bool]) -> None:
    """Add a value to an array unless it is there, without the values that it replaces."""
    container = next((array for array in rdf.iter(name)), None)
    if container is None:
        container = ET.SubElement(_description(rdf), name)
    items = next((child for child in container if child.tag in _ARRAYS), None)
    if items is None:
        items = ET.SubElement(container, f"{{{_RDF}}}{kind}")
    for item in list(items):
        if item.text != value and replaces(item.text or ""):
            items.remove(item)
    if value not in [item.text for item in items]:
        ET.SubElement(items, f"{{{_RDF}}}li").text = value


_ARRAYS = tuple(f"{{{_RDF}}}{kind}" for kind in ("Bag", "Seq", "Alt"))


def _description(rdf: ET.Element) -> ET.Element:
    """The first description of the resource, created if there is none."""
    name = f"{{{_RDF}}}Description"
    found = rdf.find(name)
    return ET.SubElement(rdf, name, {f"{{{_RDF}}}about": ""}) if found is None else found
