"""`dicomdl prepare`: make a data set by a recipe."""

import argparse
import json
from typing import Any

from dicomdl.cli._output import FINE, PROBLEMS, print_text
from dicomdl.cli._scan import add_parts, scheduler_of
from dicomdl.errors import UsageError


def add(commands: Any) -> None:
    """Add the command to the parser."""
    prepare = commands.add_parser(
        "prepare",
        help="make a data set by a recipe: scan, select, join labels, split, resample, export",
        description="Make a data set by a recipe of YAML. What is finished from an interrupted run "
        "is not made again; the ledger at the end says what was found, prepared and left out. The "
        "exit code is 1 where samples or files could not be used.",
    )
    prepare.add_argument(
        "recipe",
        nargs="?",
        metavar="RECIPE",
        help="a file of YAML, or the name of a recipe that comes with dicomdl (--list)",
    )
    prepare.add_argument(
        "data",
        nargs="?",
        metavar="DATA",
        help="folder that the paths of the recipe are relative to (default: that of the recipe)",
    )
    prepare.add_argument("-o", "--out", metavar="OUT", help="folder of the data set")
    prepare.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change the recipe, e.g. --set split.k=5; may be repeated",
    )
    prepare.add_argument(
        "--dry-run", action="store_true", help="scan, print what would be made, and write nothing"
    )
    prepare.add_argument(
        "--list",
        action="store_true",
        help="list the recipes that come with dicomdl, and their files",
    )
    prepare.add_argument(
        "--overwrite",
        action="store_true",
        help="write into a folder with other files, or with the data set of another recipe",
    )
    prepare.add_argument(
        "-j", "--workers", type=int, metavar="N", help="processes (default: one per core)"
    )
    add_parts(prepare, "OUT")
    prepare.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    prepare.add_argument("--json", action="store_true", help="print everything as JSON")
    prepare.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """Prepare, and print the ledger."""
    if given.list:
        return _list(given)
    if given.out is None and not given.work:
        raise UsageError("name a folder for the data set with -o OUT")
    progress = not (given.quiet or given.json)
    if given.part or given.merge:
        return _run_stage(given, progress=progress)
    if given.recipe is None:
        raise UsageError("name a recipe: a file, or one of dicomdl prepare --list")
    changes = list(given.set)
    if given.parts is not None:
        changes.append(f"output.parts={given.parts}")
    options: dict[str, Any] = {"changes": changes, "overwrite": given.overwrite}
    options |= {"workers": given.workers, "progress": progress}
    if given.plan or given.engine == "dask":
        from dicomdl.jobs.prepare import merge_parts, plan_prepare

        plan = plan_prepare(given.recipe, given.out, given.data, work=given.work, **options)
        if given.engine == "dask":
            from dicomdl.jobs.clusters import complete_by_dask

            complete_by_dask(plan, scheduler_of(given))
            return _printed(given, merge_parts(plan.folder, overwrite=given.overwrite))
        if given.json:
            print(json.dumps({"work": plan.folder, "partitions": len(plan)}))
        else:
            print(len(plan), "partitions in", plan.folder)
        return FINE
    from dicomdl.jobs.prepare import prepare

    done = prepare(given.recipe, given.out, given.data, dry_run=given.dry_run, **options)
    return _printed(given, done)


def _run_stage(given: argparse.Namespace, *, progress: bool) -> int:
    """Make a share of a plan, or publish the data set."""
    from dicomdl.jobs.prepare import make_parts, merge_parts
    from dicomdl.jobs.scan_parts import work_folder

    work = given.work or work_folder(given.out)
    if given.merge:
        return _printed(given, merge_parts(work, overwrite=given.overwrite, progress=progress))
    counts = make_parts(work, given.part, workers=given.workers or 1, progress=progress)
    if given.json:
        print(json.dumps(counts))
    else:
        print_text(", ".join(f"{count:,} {name}" for name, count in counts.items()))
    return FINE


def _printed(given: argparse.Namespace, done: Any) -> int:
    if given.json:
        print(json.dumps(done.to_dict(), indent=1, allow_nan=False))
    else:
        print_text(repr(done))
    return FINE if done.ok else PROBLEMS


def _list(given: argparse.Namespace) -> int:
    from dicomdl.jobs.recipes.named import shipped_recipes

    recipes = shipped_recipes()
    if given.json:
        print(json.dumps(recipes, indent=1))
        return FINE
    width = max(map(len, recipes), default=0)
    for name, path in recipes.items():
        print_text(f"{name:<{width}}  {path}")
    return FINE
