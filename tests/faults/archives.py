"""Hostile and damaged archives, made byte by byte where no library would write them."""

import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass

DATA = b"some bytes of a member" * 100
GOOD = ("good.dcm", DATA)


def entry(
    name: bytes,
    data: bytes = DATA,
    *,
    method: int = 0,
    flags: int = 0,
    size: int | None = None,
    packed: int | None = None,
    crc: int | None = None,
    offset: int | None = None,
    local: dict[str, int] | None = None,
    local_name: bytes | None = None,
    mode: int = 0,
    system: int = 3,
    extra: bytes = b"",
) -> tuple[bytes, Callable[[int], bytes]]:
    """Return the local part of a member of a zip, and its entry in the central directory.

    The numbers of the entry may lie; `local` has other ones for the local header.
    """
    told = {
        "method": method,
        "flags": flags,
        "crc": zlib.crc32(data) if crc is None else crc,
        "packed": len(data) if packed is None else packed,
        "size": len(data) if size is None else size,
    }
    here = told | (local or {})

    def fields(of: dict[str, int]) -> bytes:
        return struct.pack(
            "<HHHHIII", of["flags"], of["method"], 0, 0x21, of["crc"], of["packed"], of["size"]
        )

    shown = name if local_name is None else local_name
    head = b"PK\3\4" + struct.pack("<H", 20) + fields(here) + struct.pack("<HH", len(shown), 0)

    def central(start: int) -> bytes:
        at = start if offset is None else offset
        return (
            b"PK\1\2"
            + struct.pack("<BBH", 20, system, 20)
            + fields(told)
            + struct.pack("<HHHHHII", len(name), len(extra), 0, 0, 0, mode << 16, at)
            + name
            + extra
        )

    return head + shown + data, central


def zip64_entry(name: bytes, *numbers: int) -> tuple[bytes, Callable[[int], bytes]]:
    """Return a member whose size, packed size and offset are in the extra field of zip64."""
    extra = struct.pack("<HHQQQ", 1, 24, *numbers)
    in_extra = 0xFFFFFFFF
    return entry(name, size=in_extra, packed=in_extra, offset=in_extra, extra=extra)


def zip_of(*entries: tuple[bytes, Callable[[int], bytes]], cut: int = 0) -> bytes:
    """Return a zip archive of some entries."""
    body, directory = b"", b""
    for local, central in entries:
        directory += central(len(body))
        body += local
    count = len(entries)
    end = struct.pack("<HHHHIIH", 0, 0, count, count, len(directory), len(body), 0)
    whole = body + directory + b"PK\5\6" + end
    return whole[: len(whole) - cut] if cut else whole


def deflated(data: bytes) -> bytes:
    """Return raw deflated bytes."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def tar_of(*infos: tarfile.TarInfo | tuple[str, bytes], kind: int = tarfile.PAX_FORMAT) -> bytes:
    """Return a tar archive of members, or of (name, bytes)."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind) as archive:
        for info in infos:
            if isinstance(info, tuple):
                member = tarfile.TarInfo(info[0])
                member.size = len(info[1])
                archive.addfile(member, io.BytesIO(info[1]))
            else:
                archive.addfile(info)
    return file.getvalue()


def info_of(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    """Return the header of a link or device."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def _zip_with_good(*bad: tuple[bytes, Callable[[int], bytes]]) -> bytes:
    return zip_of(entry(b"good.dcm"), *bad)


def _overlapping() -> bytes:
    # The second entry points into the first (D. Fifield, "A better zip bomb", 2019).
    data = b"PK\3\4" + bytes(400)
    return zip_of(
        entry(b"good.dcm"), entry(b"a", data), entry(b"b", b"", offset=2269, packed=300, size=300)
    )


def _quine_like() -> bytes:
    inner = zip_of(entry(b"c.dcm"))
    for name in (b"b.zip", b"a.zip"):
        inner = zip_of(entry(name, inner))
    return zip_of(entry(b"good.dcm"), entry(b"outer.zip", inner))


def _with_size(whole: bytes, name: bytes, size: bytes) -> bytes:
    """Return a tar in which the last header of this name has another size (12 bytes)."""
    at = whole.rindex(name + bytes(90))
    header = bytearray(whole[at : at + 512])
    header[124:136] = size
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    return whole[:at] + bytes(header) + whole[at + 512 :]


def _tar_of_size(size: int) -> bytes:
    """Return a tar whose second member has this size in its attributes of pax."""
    info = tarfile.TarInfo("b")
    info.pax_headers = {"size": str(size)}
    return tar_of(GOOD, info)


def _xz_of_large_dictionary() -> bytes:
    """Return an xz file whose header asks for a dictionary of 4 GiB."""
    whole = bytearray(lzma.compress(tar_of(GOOD), preset=0))
    # The block header (xz file format 3.1): size, flags, filter 0x21, its property, CRC-32.
    size = 4 * whole[12] + 4
    whole[16] = 40
    whole[12 + size - 4 : 12 + size] = struct.pack("<I", zlib.crc32(whole[12 : 12 + size - 4]))
    return bytes(whole)


def _lzma_of_large_dictionary() -> bytes:
    filters = [{"id": lzma.FILTER_LZMA1, "preset": 0}]
    packed = lzma.compress(DATA, format=lzma.FORMAT_RAW, filters=filters)
    head = struct.pack("<BBHBI", 9, 4, 5, 93, 0xFFFFFFFF)
    return _zip_with_good(entry(b"x", head + packed, method=14, size=len(DATA)))


def _negative_tar() -> bytes:
    # In base 256; it would lead back to the same header for ever.
    return _with_size(tar_of(GOOD, ("b", b"x")), b"b", b"\xff" * 10 + b"\xfe\x00")


@dataclass(frozen=True)
class Case:
    """A file, and the reasons of the problems that a scan of it has."""

    title: str
    name: str
    make: Callable[[], bytes]
    reasons: tuple[str, ...]
    # Whether the member good.dcm is read nevertheless.
    has_good: bool = True


BOMB = deflated(bytes(1_100_000))
S_IFLNK, S_IFCHR = 0o120777, 0o020666

CASES = (
    Case("absolute name", "a.zip", lambda: _zip_with_good(entry(b"/etc/passwd")), ("unsafe_name",)),
    Case("parent", "a.zip", lambda: _zip_with_good(entry(b"s/../../x")), ("unsafe_name",)),
    Case("backslashes", "a.zip", lambda: _zip_with_good(entry(b"..\\..\\x")), ("unsafe_name",)),
    Case("drive", "a.zip", lambda: _zip_with_good(entry(b"C:\\x")), ("unsafe_name",)),
    Case("NUL in a name", "a.zip", lambda: _zip_with_good(entry(b"x\0.dcm")), ("unsafe_name",)),
    Case(
        "no UTF-8 in a name of UTF-8",
        "a.zip",
        lambda: _zip_with_good(entry(b"\xff\xfe", flags=0x800)),
        ("damaged_archive",),
        has_good=False,
    ),
    Case(
        "one name three times",
        "a.zip",
        lambda: _zip_with_good(*[entry(b"x", bytes([n])) for n in range(3)]),
        ("duplicate_name",),
    ),
    Case("link", "a.zip", lambda: _zip_with_good(entry(b"x", mode=S_IFLNK)), ("special_member",)),
    Case("device", "a.zip", lambda: _zip_with_good(entry(b"x", mode=S_IFCHR)), ("special_member",)),
    Case("encrypted", "a.zip", lambda: _zip_with_good(entry(b"x", flags=1)), ("encrypted",)),
    Case(
        "deflate64",
        "a.zip",
        lambda: _zip_with_good(entry(b"x", method=9)),
        ("unsupported_compression",),
    ),
    Case(
        "unknown method",
        "a.zip",
        lambda: _zip_with_good(entry(b"x", method=77)),
        ("unsupported_compression",),
    ),
    Case("overlap", "a.zip", _overlapping, ("overlapping_members", "overlapping_members")),
    Case(
        "an offset beyond the file",
        "a.zip",
        lambda: _zip_with_good(entry(b"x", offset=10**9)),
        ("overlapping_members",),
    ),
    *(
        Case(
            f"{what} of 64 bits",
            "a.zip",
            lambda numbers=numbers: _zip_with_good(zip64_entry(b"x", *numbers)),
            ("damaged_archive",),
        )
        for what, numbers in {
            "a size": (2**64 - 1, len(DATA), 2238),
            "a packed size": (len(DATA), 2**63, 2238),
            "an offset": (len(DATA), len(DATA), 2**64 - 1),
        }.items()
    ),
    Case(
        "stored with two sizes",
        "a.zip",
        lambda: _zip_with_good(entry(b"x", size=5)),
        ("damaged_archive",),
    ),
    Case(
        "another size in the local header",
        "a.zip",
        lambda: _zip_with_good(entry(b"x", local={"size": 5})),
        ("damaged_archive",),
    ),
    Case(
        "another name in the local header",
        "a.zip",
        lambda: _zip_with_good(entry(b"x", local_name=b"y")),
        ("damaged_archive",),
    ),
    Case(
        "a longer local header over the next member",
        "a.zip",
        lambda: zip_of(
            entry(b"x", local_name=b"./" * 300 + b"x"), entry(b"y", offset=2300), entry(b"good.dcm")
        ),
        ("damaged_archive", "overlapping_members"),
    ),
    Case(
        "encrypted in the local header only",
        "a.zip",
        lambda: _zip_with_good(entry(b"x", local={"flags": 1})),
        ("damaged_archive",),
    ),
    Case(
        "a bomb of 1000:1 that says so",
        "a.zip",
        lambda: _zip_with_good(entry(b"x", BOMB, method=8, size=1 << 31)),
        ("inflates_too_far",),
    ),
    Case(
        "a bomb that hides its size",
        "a.zip",
        lambda: _zip_with_good(entry(b"x", BOMB, method=8, size=500, crc=1)),
        ("damaged_member",),
    ),
    Case(
        "fewer bytes than stated",
        "a.zip",
        lambda: _zip_with_good(entry(b"x", deflated(b"abc"), method=8, size=500, crc=1)),
        ("damaged_member",),
    ),
    Case(
        "another checksum",
        "a.zip",
        lambda: _zip_with_good(entry(b"x", deflated(DATA), method=8, size=len(DATA), crc=1)),
        ("damaged_member",),
    ),
    Case(
        "bytes that do not inflate",
        "a.zip",
        lambda: _zip_with_good(entry(b"x", b"\xff" * 50, method=8, size=500)),
        ("damaged_member",),
    ),
    Case(
        "bytes that are no LZMA",
        "a.zip",
        lambda: _zip_with_good(entry(b"x", b"\xff" * 50, method=14, size=500)),
        ("damaged_member",),
    ),
    Case(
        "bytes that are no bzip2",
        "a.zip",
        lambda: _zip_with_good(entry(b"x", b"\xff" * 50, method=12, size=500)),
        ("damaged_member",),
    ),
    Case(
        "LZMA with a dictionary of 4 GiB",
        "a.zip",
        _lzma_of_large_dictionary,
        ("unsupported_compression",),
    ),
    Case("archives in archives", "a.zip", _quine_like, ("nested_too_deep",)),
    Case(
        "a nested archive that is none",
        "a.zip",
        lambda: _zip_with_good(entry(b"x.zip")),
        ("damaged_archive",),
    ),
    *(
        Case(title, "a.zip", make, ("damaged_archive",), has_good=False)
        for title, make in {
            "empty file": bytes,
            "cut in the directory": lambda: zip_of(entry(b"good.dcm"), cut=30),
            "no zip at all": lambda: b"<html>not found</html>",
            "only a signature": lambda: b"PK\3\4",
            "a directory of 4 GB": lambda: (
                b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, 0xFFFFFFF0, 0, 0)
            ),
            "in several parts": lambda: (
                b"PK\6\7" + bytes(12) + struct.pack("<I", 7) + zip_of(cut=0)
            ),
        }.items()
    ),
    Case("tar: parent", "a.tar", lambda: tar_of(GOOD, ("../x", b"")), ("unsafe_name",)),
    Case("tar: absolute", "a.tar", lambda: tar_of(GOOD, ("/x", b"")), ("unsafe_name",)),
    Case(
        "tar: links and devices",
        "a.tar",
        lambda: tar_of(
            GOOD,
            info_of("a", tarfile.SYMTYPE, "/etc/passwd"),
            info_of("b", tarfile.LNKTYPE, "good.dcm"),
            info_of("c", tarfile.CHRTYPE),
            info_of("d", tarfile.FIFOTYPE),
        ),
        ("special_member",) * 4,
    ),
    Case(
        "tar: one name twice",
        "a.tar",
        lambda: tar_of(GOOD, ("x", b"1"), ("./x", b"2")),
        ("duplicate_name",),
    ),
    Case(
        "tar: cut in a member",
        "a.tar",
        lambda: tar_of(GOOD, ("x", DATA))[:4600],
        ("damaged_archive",) * 2,
    ),
    Case("tar: a size that leads back", "a.tar", _negative_tar, ("damaged_archive",)),
    Case(
        "tar: a size of more than 64 bits",
        "a.tar",
        lambda: _tar_of_size(10**30),
        ("damaged_archive",) * 2,
    ),
    Case("tar: no tar", "a.tar", lambda: b"\xff" * 2000, ("damaged_archive",), has_good=False),
    Case("tar: empty", "a.tar", bytes, ("damaged_archive",), has_good=False),
    Case(
        "tar.gz: damaged",
        "a.tar.gz",
        lambda: zlib.compress(tar_of(GOOD), wbits=31)[:-20],
        ("damaged_archive",),
        has_good=False,
    ),
    Case(
        "tar.gz: another checksum",
        "a.tar.gz",
        lambda: zlib.compress(tar_of(GOOD), wbits=31)[:-8] + bytes(8),
        ("damaged_archive",),
        has_good=False,
    ),
    Case(
        "tar.xz: a dictionary of 4 GiB",
        "a.tar.xz",
        _xz_of_large_dictionary,
        ("unsupported_compression",),
        has_good=False,
    ),
    Case(
        "tar.zst",
        "a.tar.zst",
        lambda: b"\x28\xb5\x2f\xfd" + bytes(100),
        ("unsupported_compression",),
        has_good=False,
    ),
)


def zip_with(name: str, data: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip archive of one member, as zipfile writes it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr(name, data)
    return file.getvalue()
