"""Write properties of an XMP packet; every other byte of it stays (ISO 16684-1)."""

import re
from collections.abc import Collection, Mapping, Sequence
from xml.parsers import expat
from xml.sax.saxutils import escape

from coca.core.errors import DataError
from coca.search.ingest.photo_metadata import XMP_NAMESPACES, Xmp

EMPTY_PACKET = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="{XMP_NAMESPACES["rdf"]}">
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
""".encode()

_RDF, _DESCRIPTION = "rdf:RDF", "rdf:Description"
_PREFIXES = {uri: prefix for prefix, uri in XMP_NAMESPACES.items()}
_TAG = re.compile(rb"""<(?:[^<>"']|"[^"]*"|'[^']*')*>""")
_ATTRIBUTE = re.compile(rb"""(?<!\s)\s++([^\s=/>]+)\s*=\s*("[^"]*"|'[^']*')""")


def replace_properties(packet: bytes, properties: Mapping[str, Sequence[str]]) -> bytes:
    """Replace properties, such as `dc:subject`, by these texts; one without texts is removed.

    Raises:
        DataError: The packet is damaged, has entities, or is beyond the limits of reading.
    """
    try:
        if Xmp.parse(packet) is None:
            raise ValueError("it is damaged, too large or has entities")
        cuts, ends = _located(packet, properties)
        if _RDF not in ends:
            raise ValueError("it is not XMP")
    except (expat.ExpatError, ValueError) as error:
        raise DataError(f"XMP that cannot be changed: {error}", reason="bad_sidecar") from None
    added = "".join(f"\n   {_element(name, texts)}" for name, texts in properties.items() if texts)
    if added and _DESCRIPTION not in ends:
        names = f'xmlns:rdf="{XMP_NAMESPACES["rdf"]}" rdf:about=""'
        added = f" <rdf:Description {names}>{added}\n  </rdf:Description>\n "
    at = ends.get(_DESCRIPTION, ends[_RDF])
    for start, end, new in sorted([*cuts, (at, at, added.encode())], reverse=True):
        packet = packet[:start] + new + packet[end:]
    return packet


def _located(
    packet: bytes, names: Collection[str]
) -> tuple[list[tuple[int, int, bytes]], dict[str, int]]:
    """Locate properties, and the end tags of the first description and of all of them."""
    parser = expat.ParserCreate("utf-8", " ")
    parser.namespace_prefixes = True
    cuts: list[tuple[int, int, bytes]] = []
    ends: dict[str, int] = {}
    open_tags: list[tuple[str, int, bytes]] = []

    def parents() -> list[str]:
        return [name for name, *_ in open_tags[-2:]]

    def start(name: str, attributes: Mapping[str, str]) -> None:
        at = parser.CurrentByteIndex
        tag = _TAG.match(packet, at)
        assert tag is not None
        if _short(name) == _DESCRIPTION and parents()[-1:] == [_RDF]:
            written = {":".join(key.split(" ")[:0:-1]): _short(key) for key in attributes}
            cuts.extend(
                (at + one.start(), at + one.end(), b"")
                for one in _ATTRIBUTE.finditer(tag[0])
                if written.get(one[1].decode()) in names
            )
        open_tags.append((_short(name), at, tag[0]))

    def stop(_: str) -> None:
        name, at, tag = open_tags.pop()
        is_empty, end = tag.endswith(b"/>"), parser.CurrentByteIndex
        if name in names and parents() == [_RDF, _DESCRIPTION]:
            after = at + len(tag) if is_empty else packet.index(b">", end) + 1
            while packet[at - 1 : at].isspace():
                at -= 1
            cuts.append((at, after, b""))
        elif not is_empty and (name == _RDF or (name == _DESCRIPTION and parents()[-1:] == [_RDF])):
            ends.setdefault(name, end)

    parser.StartElementHandler, parser.EndElementHandler = start, stop
    parser.Parse(packet.rstrip(b"\0"), True)
    return cuts, ends


def _short(name: str) -> str:
    """Return a name as `prefix:local`, with the usual prefix; empty of an unknown namespace."""
    uri, _, rest = name.partition(" ")
    return f"{_PREFIXES[uri]}:{rest.partition(' ')[0]}" if uri in _PREFIXES else ""


def _element(name: str, texts: Sequence[str]) -> str:
    uri = XMP_NAMESPACES[name.partition(":")[0]]
    if name == "xmp:Label":
        return f'<{name} xmlns:xmp="{uri}">{escape(texts[0])}</{name}>'
    kind, language = ("Alt", ' xml:lang="x-default"') if name == "dc:description" else ("Bag", "")
    items = "".join(f"<rdf:li{language}>{escape(text)}</rdf:li>" for text in texts)
    names = f'xmlns:{name.partition(":")[0]}="{uri}" xmlns:rdf="{XMP_NAMESPACES["rdf"]}"'
    return f"<{name} {names}><rdf:{kind}>{items}</rdf:{kind}></{name}>"
