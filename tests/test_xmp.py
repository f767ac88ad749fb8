"""Keywords in XMP sidecars: what other programs wrote is kept, and exiftool reads what was added."""

import json
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from sports_lightning.errors import UserError
from sports_lightning.organize.xmp import with_keyword

# As darktable writes them: attributes, arrays, and a history of edits.
DARKTABLE = """<?xml version="1.0" encoding="UTF-8"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 4.4.0-Exiv2">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:xmpMM="http://ns.adobe.com/xap/1.0/mm/"
    xmlns:darktable="http://darktable.sf.net/"
    xmlns:dc="http://purl.org/dc/elements/1.1/"
    xmlns:lr="http://ns.adobe.com/lightroom/1.0/"
   xmp:Rating="3"
   xmpMM:DerivedFrom="IMG_1.JPG"
   darktable:xmp_version="5"
   darktable:auto_presets_applied="1">
   <darktable:history>
    <rdf:Seq>
     <rdf:li
      darktable:num="0"
      darktable:operation="exposure"
      darktable:enabled="1"
      darktable:params="00000000"/>
    </rdf:Seq>
   </darktable:history>
   <dc:subject>
    <rdf:Bag>
     <rdf:li>mountains &amp; lakes</rdf:li>
     <rdf:li>trip</rdf:li>
    </rdf:Bag>
   </dc:subject>
   <lr:hierarchicalSubject>
    <rdf:Bag>
     <rdf:li>places|mountains &amp; lakes</rdf:li>
     <rdf:li>trip</rdf:li>
    </rdf:Bag>
   </lr:hierarchicalSubject>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
"""

# As digiKam writes them: a packet with padding, several descriptions, alternatives by language.
DIGIKAM = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 4.4.0-Exiv2">
 <!-- written by hand -->
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:digiKam="http://www.digikam.org/ns/1.0/" digiKam:PickLabel="2">
   <digiKam:TagsList><rdf:Seq><rdf:li>People/Jürgen</rdf:li></rdf:Seq></digiKam:TagsList>
   <digiKam:CaptionsAuthorNames>
    <rdf:Alt><rdf:li xml:lang="x-default">me</rdf:li></rdf:Alt>
   </digiKam:CaptionsAuthorNames>
  </rdf:Description>
  <rdf:Description rdf:about="" xmlns:MicrosoftPhoto="http://ns.microsoft.com/photo/1.0/">
   <MicrosoftPhoto:LastKeywordXMP><rdf:Bag><rdf:li>People/Jürgen</rdf:li></rdf:Bag></MicrosoftPhoto:LastKeywordXMP>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
"""

_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_DC, _LR = "{http://purl.org/dc/elements/1.1/}", "{http://ns.adobe.com/lightroom/1.0/}"
_DIGIKAM = "{http://www.digikam.org/ns/1.0/}"


def facts(sidecar: bytes) -> set[tuple[str, ...]]:
    """Every attribute, text and place in the tree."""
    start = sidecar.index(b"<x:xmpmeta")
    found: set[tuple[str, ...]] = set()

    def visit(element: ET.Element, path: tuple[str, ...]) -> None:
        path = (*path, element.tag)
        found.update((*path, name, value) for name, value in element.attrib.items())
        if (element.text or "").strip():
            found.add((*path, str(element.text)))
        for child in element:
            visit(child, path)

    visit(ET.fromstring(sidecar[start : sidecar.index(b"</x:xmpmeta>") + 12]), ())
    return found


def items(sidecar: bytes, name: str) -> tuple[str, list[str]]:
    """The kind of an array, and its items."""
    start = sidecar.index(b"<x:xmpmeta")
    tree = ET.fromstring(sidecar[start : sidecar.index(b"</x:xmpmeta>") + 12])
    (array,) = tree.iter(name)
    return array[0].tag.removeprefix(_RDF), [str(item.text) for item in array[0]]


@pytest.mark.parametrize("text", [DARKTABLE, DIGIKAM])
def test_everything_that_a_sidecar_has_is_kept(text: str) -> None:
    before = text.encode()
    after = with_keyword(before, "judo")
    assert facts(before) < facts(after)
    assert len(facts(after) - facts(before)) <= 4, "three keywords, and perhaps the attribute of a new description"
    assert after[: after.index(b"<x:xmpmeta")] == before[: before.index(b"<x:xmpmeta")]
    assert after[after.index(b"</x:xmpmeta>") :] == before[before.index(b"</x:xmpmeta>") :]
    assert after.count(b"<!-- written by hand -->") == before.count(b"<!-- written by hand -->")
    assert with_keyword(after, "judo") == after, "once"


def test_a_class_is_one_level_of_a_hierarchy() -> None:
    after = with_keyword(None, "hip-hop / rap|trap")
    assert items(after, f"{_DC}subject") == ("Bag", ["hip-hop / rap|trap"])
    assert items(after, f"{_LR}hierarchicalSubject") == ("Bag", ["sports_lightning|hip-hop / rap_trap"])
    assert items(after, f"{_DIGIKAM}TagsList") == ("Seq", ["sports_lightning/hip-hop _ rap|trap"])


def test_keywords_join_those_that_are_there() -> None:
    after = with_keyword(DARKTABLE.encode(), "judo")
    assert items(after, f"{_DC}subject") == ("Bag", ["mountains & lakes", "trip", "judo"])
    expected = ["places|mountains & lakes", "trip", "sports_lightning|judo"]
    assert items(after, f"{_LR}hierarchicalSubject") == ("Bag", expected)
    assert items(after, f"{_DIGIKAM}TagsList") == ("Seq", ["sports_lightning/judo"])
    again = with_keyword(after, "fencing")
    assert items(again, f"{_DC}subject") == ("Bag", ["mountains & lakes", "trip", "judo", "fencing"])
    assert items(again, f"{_DIGIKAM}TagsList") == ("Seq", ["sports_lightning/fencing"])


def test_a_label_with_control_characters_is_valid_xml() -> None:
    assert items(with_keyword(None, "a\x07b\x00"), f"{_DC}subject") == ("Bag", ["a b "])


def test_a_new_sidecar() -> None:
    sidecar = with_keyword(None, "table <tennis> & more")
    assert items(sidecar, f"{_DC}subject") == ("Bag", ["table <tennis> & more"])
    assert items(sidecar, f"{_LR}hierarchicalSubject") == ("Bag", ["sports_lightning|table <tennis> & more"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it has no XMP"),
        (b"\xff\xd8\xff", "it has no XMP"),
        (b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF></x:xmpmeta>", "it is damaged"),
        (b"<x:xmpmeta xmlns:x='adobe:ns:meta/'></x:xmpmeta>", "it has no rdf:RDF"),
        (b'<!DOCTYPE x [<!ENTITY a "a">]><x:xmpmeta xmlns:x="adobe:ns:meta/">&a;</x:xmpmeta>', "it has a DOCTYPE"),
        ("<x:xmpmeta/>".encode("utf-16"), "it is UTF-16"),
    ],
)
def test_other_files_are_refused(content: bytes, said: str) -> None:
    with pytest.raises(UserError, match=said):
        with_keyword(content, "judo")


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="needs exiftool")
@pytest.mark.parametrize("text", [None, DARKTABLE, DIGIKAM])
def test_exiftool_reads_the_keywords(tmp_path: Path, text: str | None) -> None:
    (tmp_path / "before.xmp").write_bytes(text.encode() if text else with_keyword(None, "x"))
    (tmp_path / "after.xmp").write_bytes(with_keyword(text.encode() if text else None, "ju-jutsu é"))
    command = ["exiftool", "-json", "-G1", "-struct", tmp_path / "before.xmp", tmp_path / "after.xmp"]
    before, after = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)

    def listed(value: object) -> list[object]:
        return value if isinstance(value, list) else [value]

    added = {"XMP-dc:Subject": "ju-jutsu é", "XMP-lr:HierarchicalSubject": "sports_lightning|ju-jutsu é"}
    added["XMP-digiKam:TagsList"] = "sports_lightning/ju-jutsu é"
    for name, value in added.items():
        assert value in listed(after[name])
    if text:
        for name, value in before.items():
            if name.startswith("XMP"):
                assert set(map(str, listed(value))) <= set(map(str, listed(after[name])))
