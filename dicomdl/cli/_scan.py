"""`dicomdl scan`: index the DICOM files in some folders and archives."""

import argparse
import json
import os
from typing import Any

from dicomdl.cli._output import FINE, PROBLEMS, facts, print_text
from dicomdl.errors import UsageError


def add(commands: Any) -> None:
    """Add the command to the parser."""
    scan = commands.add_parser(
        "scan",
        help="index all DICOM files in folders and archives; a repeated scan reads what changed",
    )
    scan.add_argument(
        "roots",
        nargs="*",
        metavar="ROOT",
        help="folder, file, archive (zip, tar), the DICOMDIR of a CD, the URL of a prefix or of an "
        "object (s3://, gs://, az://, https://), or a list or table of URLs",
    )
    scan.add_argument(
        "-o",
        "--out",
        metavar="INDEX",
        help="index folder (default: one in the user's cache; `dicomdl show ROOT` finds it)",
    )
    scan.add_argument(
        "-j",
        "--workers",
        type=int,
        metavar="N",
        help="number of processes that read headers (default: one per core for large folders)",
    )
    scan.add_argument(
        "--follow-links",
        action="store_true",
        help="follow symbolic links to folders, and to files outside of ROOT",
    )
    scan.add_argument(
        "--archives",
        action="store_true",
        help="read the archives in folders and prefixes, too (a ROOT that is one is read always)",
    )
    scan.add_argument(
        "--copy-archives",
        action="store_true",
        help="copy compressed zips once to the cache folder, without compression, and read there",
    )
    _add_stores(scan)
    scan.add_argument(
        "-a",
        "--attribute",
        action="append",
        default=[],
        metavar="KEYWORD",
        help="store another attribute, e.g. ContrastBolusRoute; may be repeated",
    )
    scan.add_argument(
        "--allow-phi", action="store_true", help="allow --attribute to store identifying attributes"
    )
    scan.add_argument(
        "--patient-id",
        choices=("keep", "hash"),
        default="keep",
        help="store PatientID itself, or a keyed hash of it (default: %(default)s)",
    )
    scan.add_argument(
        "--move",
        nargs=2,
        action="append",
        default=[],
        metavar=("OLD", "NEW"),
        help="the data of root OLD of the index are in NEW now: take over the files with the same "
        "path, size and time without reading them; may be repeated, and needs no ROOT",
    )
    scan.add_argument(
        "--no-strict-files",
        action="store_true",
        help="do not read a file again if only its change time moved (container images, network "
        "mounts)",
    )
    scan.add_argument(
        "--pixel-hash",
        action="store_true",
        help="read the pixels, too, and keep a hash of each frame, which finds copies of images",
    )
    scan.add_argument(
        "--no-texts",
        action="store_true",
        help="leave free texts out of the index, which may name a person: descriptions, protocol "
        "names, contrast agents, labels of annotations",
    )
    add_parts(scan, "INDEX")
    scan.add_argument("--json", action="store_true", help="print the result as JSON")
    scan.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    scan.set_defaults(run=run)


def add_parts(command: argparse.ArgumentParser, out: str) -> None:
    """Add the options of the file protocol: plan, part and merge."""
    group = command.add_argument_group(
        "many processes or machines", "plan once, make every part by any process, merge once"
    )
    stage = group.add_mutually_exclusive_group()
    stage.add_argument("--plan", action="store_true", help="write the plan of the partitions")
    stage.add_argument(
        "--part",
        metavar="I/N",
        help="make the share I of N of a plan, from 1; or all, with others that do so",
    )
    stage.add_argument("--merge", action="store_true", help=f"check all parts, and publish {out}")
    group.add_argument(
        "--parts", type=int, metavar="N", help="number of partitions of --plan (default: by size)"
    )
    group.add_argument(
        "--engine",
        choices=("local", "dask"),
        default="local",
        help="what makes the parts: processes of this machine, or a cluster of Dask, which shares "
        "the folder; it plans and merges, too (default: %(default)s)",
    )
    group.add_argument("--scheduler", metavar="URL", help="scheduler of Dask, tcp://host:8786")
    group.add_argument(
        "--work",
        metavar="FOLDER",
        help=f"folder that the processes share (default: .{out}.parts beside {out})",
    )


def _add_stores(scan: argparse.ArgumentParser) -> None:
    """Add the options that say how stores are reached."""
    scan.add_argument(
        "--anonymous",
        action="store_true",
        help="read a public bucket, without credentials (those come from the environment)",
    )
    scan.add_argument("--endpoint", metavar="URL", help="another server of the store")
    scan.add_argument("--region", metavar="NAME", help="the region of the bucket")
    scan.add_argument(
        "--requester-pays", action="store_true", help="accept the costs of the requests"
    )
    scan.add_argument(
        "--concurrency",
        type=int,
        default=64,
        metavar="N",
        help="objects, or files of a slow file system, that each process asks for at once "
        "(default: %(default)s)",
    )


def _storage_options(given: argparse.Namespace) -> dict[str, Any]:
    options = {
        "skip_signature": given.anonymous,
        "endpoint": given.endpoint,
        "region": given.region,
        "request_payer": given.requester_pays,
    }
    return {name: value for name, value in options.items() if value}


def run(given: argparse.Namespace) -> int:
    """Scan, and print the summary. A scan that found no image is a problem."""
    options = {
        "follow_links": given.follow_links,
        "archives": given.archives,
        "copy_archives": given.copy_archives,
        "attributes": given.attribute,
        "allow_phi": given.allow_phi,
        "patient_id": given.patient_id,
        "pixel_hash": given.pixel_hash,
        "texts": not given.no_texts,
        "strict_files": not given.no_strict_files,
        "storage_options": _storage_options(given),
        "concurrency": given.concurrency,
    }
    progress = not (given.quiet or given.json)
    if given.plan or given.part or given.merge or given.engine == "dask":
        return _run_stage(given, options, progress=progress)
    from dicomdl.jobs.scan import scan

    move = dict(given.move)
    roots = given.roots or _moved_roots(given.out, move)
    index = scan(roots, given.out, move=move, workers=given.workers, progress=progress, **options)
    return _printed(given, index, roots)


def _run_stage(given: argparse.Namespace, options: dict[str, Any], *, progress: bool) -> int:
    """Plan a scan, make a share of it, or merge it."""
    from dicomdl.jobs.scan_parts import make_scan, merge_scan, plan_scan, work_folder

    if given.out is None or given.move:
        raise UsageError("a scan in parts needs out=, and cannot move an index")
    work = given.work or work_folder(given.out)
    if given.plan or given.engine == "dask":
        if not given.roots:
            raise UsageError("name a folder to scan")
        plan = plan_scan(given.roots, given.out, work=work, parts=given.parts, **options)
        if given.engine == "dask":
            from dicomdl.jobs.clusters import complete_by_dask

            complete_by_dask(plan, scheduler_of(given))
            return _printed(given, merge_scan(work), given.roots)
        if given.json:
            print(json.dumps({"work": plan.folder, "partitions": len(plan)}))
        else:
            print(len(plan), "partitions in", plan.folder)
        return FINE
    if given.part:
        counts = make_scan(work, given.part, workers=given.workers or 1, progress=progress)
        if given.json:
            print(json.dumps(counts))
        else:
            print_text(", ".join(f"{count:,} {name}" for name, count in counts.items()))
        return FINE
    index = merge_scan(work)
    return _printed(given, index, index.manifest["options"]["roots"])


def scheduler_of(given: argparse.Namespace) -> str:
    """Return the scheduler of Dask."""
    if given.scheduler is None:
        raise UsageError("--engine dask needs --scheduler, such as tcp://host:8786")
    return str(given.scheduler)


def _printed(given: argparse.Namespace, index: Any, roots: list[str]) -> int:
    if given.json:
        print(json.dumps(facts(index), indent=1))
    else:
        print_text(repr(index))
        if not len(index):
            print_text(f"  {_nothing_found(roots, index)}")
        for line in _compressed(roots):
            print_text(f"  {line}")
        if len(index.problems):
            print_text(f"  see them: dicomdl show --problems {index.path}")
    return FINE if len(index) and not len(index.problems) else PROBLEMS


def _compressed(roots: list[str]) -> list[str]:
    """Return a line for each root that is slow to read, and what makes it fast."""
    from dicomdl.jobs.roots import compressed_roots

    return [
        f"{os.path.basename(root)} is compressed, and each patch inflates whole files: "
        f"--copy-archives copies it once to the cache folder, {size / 2**20:,.0f} MiB"
        for root, size in compressed_roots(roots).items()
    ]


def _moved_roots(out: str | None, move: dict[str, str]) -> list[str]:
    """Return the roots of the index at `out`, with the new ones in place of the old ones."""
    if not move:
        raise UsageError("name a folder to scan, or --move OLD NEW")
    if out is None:
        return list(move.values())
    from dicomdl.index.opening import open_index

    roots = open_index(out, root={}).manifest["options"]["roots"]
    new = {os.path.abspath(os.path.expanduser(old)): place for old, place in move.items()}
    return [new.get(root, root) for root in roots]


def _nothing_found(roots: list[str], index: Any) -> str:
    """Describe why an index holds no image."""
    from dicomdl.storage.locations import absolute, is_url
    from dicomdl.storage.objects import without_secrets

    places = [without_secrets(root) if is_url(root) else absolute(root) for root in roots]
    where = ", ".join(map(repr, places))
    if not index.ledger["files"]:
        passed = sum(
            n for n in index.manifest.get("passed_over", {}).values() if isinstance(n, int)
        )
        return f"there are no files in {where}" + (
            ": hidden folders, links out of them and special files are passed over; --follow-links "
            "follows links"
            if passed
            else ""
        )
    return f"no file in {where} holds a DICOM image; --archives reads the archives in folders"
