"""`Recipe`: everything that a prepared data set is made of, as one frozen value.

The names and types of the fields are those of the YAML. Each is an argument of a function of
dicomdl, which defines its meaning: `scan`, `Index.join`, `Index.split`, `LabelSource`, `export` and
`write_card`.
"""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Sources:
    """What is scanned, and how; as for `scan`.

    Attributes
    ----------
    roots
        Folders, archives and URLs. Paths are relative to the folder of the data.
    index
        The folder of the index, relative as well; "" for one in the user's cache folder. Machines
        that share a plan need it in a folder that they share.
    archives, follow_links, attributes, patient_id, pixel_hash, texts, storage_options
        As for `scan`.
    """

    roots: tuple[str, ...] = (".",)
    index: str = ""
    archives: bool = False
    follow_links: bool = False
    attributes: tuple[str, ...] = ()
    patient_id: Literal["keep", "hash"] = "keep"
    pixel_hash: bool = False
    texts: bool = True
    storage_options: dict[str, str | bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stacks:
    """Which stacks are used, and what is done about irregular ones.

    Attributes
    ----------
    verdicts
        The verdicts that are used; all by default.
    irregular
        As for `read_volume`.
    one_per
        Of several stacks of a patient, study or series, the one with the most slices; the first of
        equal ones.
    """

    verdicts: tuple[str, ...] = ()
    irregular: Literal["raise", "accept", "resample"] = "raise"
    one_per: Literal["", "patient", "study", "series"] = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of labels; as for `Index.join`. The path is relative to the folder of the data."""

    path: str
    on: str | dict[str, str]
    label: str | list[str] | dict[str, str] | None = None
    level: str | None = None
    pivot: str | None = None
    lists: bool | str | list[str] = False
    parse: str | list[str] = field(default_factory=list)
    on_unmatched: str | dict[str, str] = "raise"


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels of voxels; as for `LabelSource`.

    Attributes
    ----------
    agreeing
        For stacks with several objects, such as one per reader: label 1 is where at least so many
        of them cover a voxel. Stacks without any object have no label 1.
    """

    source: str
    segments: list[str] | dict[str, Any] | None = None
    rois: list[str] | dict[str, Any] | None = None
    threshold: float | None = None
    align: Literal["nearest", "exact"] = "nearest"
    values: Literal["labels", "fractions", "bits"] = "labels"
    channels: bool = False
    label_dtype: str | None = None
    unlabelled: bool = False
    on_missing: Literal["raise", "skip", "unlabelled"] = "skip"
    agreeing: int | None = None


@dataclass(frozen=True, slots=True)
class SplitRule:
    """The split; as for `Index.split`.

    Attributes
    ----------
    fractions, k, by, seed, stratify
        As for `Index.split`.
    names
        The names of the parts; by default train, val, test.
    file
        The file of an earlier split, whose groups stay in their parts.
    """

    fractions: tuple[float, ...] = ()
    k: int | None = None
    by: Literal["patient", "study", "series"] = "patient"
    seed: int = 0
    stratify: str | list[str] | None = None
    names: tuple[str, ...] = ()
    file: str = ""


@dataclass(frozen=True, slots=True)
class Resampling:
    """The grid of samples; as for `VolumeDataset`."""

    spacing: float | list[float] | None = None
    size: int | list[int] | None = None
    orientation: str | None = None
    interpolation: Literal["linear", "thick_slices"] = "linear"


@dataclass(frozen=True, slots=True)
class Output:
    """What is written; as for `export`.

    Attributes
    ----------
    to
        The format.
    name, names, dtype, suffix, picture, shard_bytes, target, boxes, points, channels, suv
        As for `export`.
    parts
        The number of partitions, which divide shards; by default one per 2 GiB of pixels.
    """

    to: Literal["nnunet", "webdataset", "datalist", "png", "hf", "yolo"] = "webdataset"
    name: str = ""
    names: str | None = None
    dtype: Literal["auto", "int16", "float16", "float32"] = "auto"
    suffix: str = ".nii.gz"
    picture: Literal["png", "png16", "jpeg"] = "png"
    shard_bytes: int = 256 * 2**20
    target: str | list[str] | None = None
    boxes: str | list[str] | None = None
    points: str | list[str] | None = None
    channels: Any = None
    suv: Literal["required", "if_possible"] = "required"
    parts: int | None = None


@dataclass(frozen=True, slots=True)
class CardText:
    """What the data card says; as for `write_card`.

    Attributes
    ----------
    license, citations, task_categories, tags, creators, url, version, date_published, patient_ids
        As for `write_card`.
    contents
        Whether the fingerprint covers all bytes of the instances, which are read once more for it.
    """

    license: str | list[str] = ""
    citations: tuple[str, ...] = ()
    task_categories: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    creators: tuple[str, ...] = ()
    url: str = ""
    version: str = ""
    date_published: str = ""
    patient_ids: bool = False
    contents: bool = False


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe.

    Attributes
    ----------
    name, description
        Of the data set, for its card.
    sources
        What is scanned.
    repairs
        "signed_ct": CT of 12 bits that claim to be unsigned, with an intercept above -100, hold
        signed values: no air has a value otherwise. They are read as signed; the ledger counts
        them.
    select
        Conditions, as of `dicomdl show --where`; all must hold. Those that name columns of tables
        are applied after the tables.
    stacks
        Which stacks are used.
    tables
        Tables of labels, joined in their order.
    labels
        Labels of voxels.
    split
        The split.
    intensity
        As for datasets: a name such as "ct.lung" or "auto", a window ``[center, width]``, a mapping
        such as ``{clip: [-1000, 1000]}``, ``{percentile: [1, 99]}``, ``{min_max: []}`` or
        ``{z_score: []}``, or a list of these, one after the other.
    resampling
        The grid of samples.
    output
        What is written.
    card
        What the data card says.
    """

    name: str
    description: str = ""
    sources: Sources = field(default_factory=Sources)
    repairs: tuple[Literal["signed_ct"], ...] = ()
    select: tuple[str, ...] = ()
    stacks: Stacks = field(default_factory=Stacks)
    tables: tuple[Table, ...] = ()
    labels: Labels | None = None
    split: SplitRule | None = None
    intensity: Any = None
    resampling: Resampling = field(default_factory=Resampling)
    output: Output = field(default_factory=Output)
    card: CardText = field(default_factory=CardText)
