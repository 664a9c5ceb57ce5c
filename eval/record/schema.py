"""The record: the judge's result of one attack on one target. This is its only schema; no other module knows its keys.

``record.json`` holds one record, ``records.jsonl`` one a line, without the values of single images. A record written
by an older version is migrated when it is read, one version at a time; an unknown version is an error.

| version | since |
|---|---|
| 1 | the first recorded results; it says no version |
| 2 | `kind`, `threat_model`, digests of target and images, package version; `scores` hold metrics alone |
| 3 | `leakage.mse_gaussian_estimate`, which was called a bound before, and its `samples` |
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    Tag,
    model_serializer,
    model_validator,
)

from splitleak.artifacts import write_json
from splitleak.attacker.class_inversion import CLASS_ATTACKS
from splitleak.attacker.reconstruction import ATTACKS
from splitleak.config import IMPORTED, OWN, Document, kind_of_network, read_document, read_lines
from splitleak.models import ARCHITECTURES, ArchitectureName
from splitleak.outputs import FolderKind
from splitleak.plugins import Plugin, check_recorded, recorded

VERSION = 3
FILE = "record.json"
CELL = FolderKind("score", FILE, ("pictures.npz",))

_LONG_LIST = 16
_OF_IMAGES = ("images", "scores")  # [class][picture]

Settings = dict[str, JsonValue]


class _Part(Document):
    """A part of a record: a field of the schema that is None is not written."""

    @model_serializer(mode="wrap")
    def _without_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        own = type(self).model_fields
        return {name: value for name, value in handler(self).items() if value is not None or name not in own}


class Provenance(_Part):
    """Provenance of a number: command, commit, hardware and versions; ``time`` is UTC."""

    command: str = ""
    files: dict[str, str] | None = Field(default=None, description="digests of the files of settings that it names")
    commit: str = "unknown"
    hardware: str = ""
    python: str = ""
    torch: str = ""
    time: str = ""
    version: str | None = Field(default=None, description="of the package; not told before record version 2")


class ImageSet(_Part):
    """One of the sets of a split: how many images, and a digest of their hashes."""

    count: int
    digest: str


class Dataset(_Part):
    """The ``splits.json`` of the target's training data; ``poison`` if some of it was poisoned."""

    dataset: str
    config: Settings = Field(default_factory=dict)
    images: dict[str, ImageSet] = Field(default_factory=dict)
    classes: tuple[str, ...] | None = None
    poison: Settings | None = None


class Network(_Part):
    """The architecture and its cut; ``cut`` None is the architecture's own default."""

    architecture: ArchitectureName
    cut: int | None = None
    width: float = 1.0
    channels: int
    size: int
    classes: int

    @property
    def position(self) -> int:
        """The cut, by default the architecture's."""
        return self.cut or ARCHITECTURES[self.architecture].default_cut

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)``."""
        return self.channels, self.size, self.size


class ImportedNetwork(_Part):
    """A network of a user's own, and the tensors at which it was cut."""

    architecture: Literal["imported"]
    source: str
    network: str
    cut: str
    image_shape: tuple[int, int, int]
    features: tuple[int, ...]
    parts: tuple[tuple[int, ...], ...] = ()
    arranged: tuple[tuple[int, ...], ...] = ()
    classes: int
    batched: bool = True

    @property
    def position(self) -> str:
        """The cut."""
        return self.cut


class Step(_Part):
    """One defense of the stack."""

    name: str
    config: Settings = Field(default_factory=dict)


class Design(_Part):
    """The target's configuration: network, defense stack, training, seed."""

    model: Annotated[
        Annotated[Network, Tag(OWN)] | Annotated[ImportedNetwork, Tag(IMPORTED)], Discriminator(kind_of_network)
    ]
    defenses: tuple[Step, ...] = ()
    training: Settings | None = Field(default_factory=dict, description="none: an imported network as it came")
    seed: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the stacked defenses."""
        return tuple(step.name for step in self.defenses)


class Target(_Part):
    """The model that was attacked; ``accuracy`` is the share of its test images that it classifies right."""

    name: str
    digest: str | None = Field(default=None, description="of its weights and settings; not told before version 2")
    design: Design
    dataset: Dataset
    accuracy: float
    right_answer: str | None = Field(default=None, description="of an imported network; none: the images' labels")
    provenance: Provenance


class Findings(_Part):
    """An attack's own figures, measured on the attacker's images only; an attack may add others."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    history: tuple[dict[str, float], ...] | None = Field(default=None, description="figures of each epoch or stretch")
    held_out_mse: float | None = None
    mean_image_mse: float | None = None
    chosen_epoch: int | None = None
    decoder_epochs: int | None = None
    gradient_norm_start: float | None = None
    mass_dropped: float | None = None
    parameters: int | None = Field(default=None, description="of what it trained")
    student_agreement: tuple[float, ...] | None = Field(default=None, description="of LOMMA's with their teacher")
    captured_unlike: float | None = Field(default=None, description="see `unlikeness`")

    @property
    def stages(self) -> list[list[dict[str, float]]]:
        """The histories of a search's further stages."""
        return [figures for name, figures in (self.model_extra or {}).items() if name.startswith("history_")]


class AttackRun(_Part):
    """The attack: registered name, settings, seed and findings. ``prior`` is the digest of a generator."""

    name: str
    config: Settings = Field(default_factory=dict)
    seed: int = 0
    rebuilt: int = 0
    findings: Findings = Findings()
    prior: str | None = None
    provenance: Provenance


class Checked(_Part):
    """Overlap of the auxiliary data with the victims' images, the training images, and the target's classes."""

    victims_images: int
    training_images: int
    target_classes: int
    how: str


class ClassMeans(_Part):
    """MSE of baselines that know a victim's class alone: of the attacker's own images of it the mean, and the true one.

    ``own``: of the auxiliary images by the attacker's labels; where he has none of the class, the mean of all of them.
    ``true``: of the target's training images, which no attacker has.
    """

    own: float
    true: float


class AuxiliaryImages(_Part):
    """The auxiliary data as declared, and validated against the victims' and the training images."""

    kind: str = Field(description="of `check_auxiliary`")
    dataset: str
    images: int
    classes: tuple[str, ...] | None = None
    checked: Checked


class CaptureGaps(_Part):
    """Gaps that a capture itself tells of, and the messages that are known to be missing in them."""

    gaps: int
    lost: int


class ThreatModel(_Part):
    """The attacker's observations, knowledge (white box: encoder or head), query budget and auxiliary data.

    ``sees``: features on the wire, scores that victims share, or no victim at all. ``draws``: queries with each of its
    own images; ``views``: how often each victim's image crossed the wire. ``adaptive``: it bypassed a defense that
    masks gradients.
    """

    sees: Literal["features", "scores", "nothing"]
    knowledge: tuple[str, ...] = ()
    queries: int = 0
    draws: int = 1
    views: int = 1
    access: str | None = None
    adaptive: bool = False
    ignores_output_policy: bool = False
    auxiliary: AuxiliaryImages | None = None
    capture: CaptureGaps | None = Field(default=None, description="if it has gaps; not told by older attacks")

    @property
    def pictures(self) -> int:
        """The different pictures that it asked about."""
        return self.queries // max(1, self.draws * self.views)


class Wire(_Part):
    """The victims' stream: images, mean bytes per image, and accuracy of the answers (if labelled)."""

    images: int
    bytes_per_image: float
    accuracy: float | None = None
    codec: str | None = Field(default=None, description="of features; not told by older ledgers")


class Score(_Part):
    """One metric: mean and standard deviation (n - 1) over images or classes, and their values.

    ``images`` holds the values of single pictures ``[class][picture]`` where there are several of each class. A metric
    of the whole batch has neither deviation nor values; a single value has no deviation. ``capped`` counts values that
    stand as their metric's cap, as the PSNR of an image that is rebuilt exactly, which is infinite, stands as 100 dB.
    """

    mean: float
    std: float | None = None
    values: tuple[float, ...] | None = None
    images: tuple[tuple[float, ...], ...] | None = None
    capped: int | None = None

    def text(self, digits: int) -> str:
        """The mean, and the deviation where there is one.

        >>> Score(mean=0.25, std=0.125).text(2), Score(mean=0.25).text(1)
        ('0.25 ± 0.12', '0.2')
        """
        return f"{self.mean:.{digits}f}" + ("" if self.std is None else f" ± {self.std:.{digits}f}")


class TopK(_Part):
    """Attack accuracy, see `AttackAccuracy`; ``hits`` ``[class][picture]``: 1 where the class is among the first k."""

    mean: float
    images: int
    standard_error_images: float | None = None
    std_trials: float | None = None
    std_targets: float | None = None
    std_image_index: float | None = None
    hits: tuple[tuple[int, ...], ...]


class Hits(_Part):
    """A share of pictures, and the ``hits`` ``[class][picture]`` that it is of."""

    mean: float
    hits: tuple[tuple[int, ...], ...]


class OpenSet(_Part):
    """An open-set judge's answers: it knows the target's classes and those that the attacker's prior is of.

    ``right``: the share that it takes for the attacked class; ``others``: for one of the prior's own. ``accuracy`` is
    on images that it has not seen, ``accuracy_own`` on those of the target's classes among them.
    """

    classes: int
    right: Hits
    others: float
    accuracy: float
    accuracy_own: float


class Verified(_Part):
    """The share of pairs that are told to be of one class, its standard error over classes, and how many pairs."""

    rate: float
    error: float | None = None
    pairs: int


class EmbeddedAt(_Part):
    """At one false match rate: pairs of a class's photographs with its rebuilt pictures, themselves, and others."""

    rebuilt: Verified
    true: Verified | None = Field(default=None, description="where a class has two photographs")
    others: Verified


class Embedded(_Part):
    """Whether pictures are told to be of their class by a user's embedder, see `embedded`; ``at`` false match rates."""

    embedder: str = Field(description="digest of the network")
    people: int
    photographs: int
    at: dict[str, EmbeddedAt]


class PrivateFit(_Part):
    """How far a target has converged: mean cross-entropy and confidence in the right class, on its private images."""

    loss: float
    confidence: float


class Frechet(_Part):
    """Fréchet distance between features of the rebuilt and of the private images, with both counts."""

    distance: float
    rebuilt: int
    private: int
    dimensions: int


class Diversity(_Part):
    """Precision, recall, density and coverage (PRDC) with ``k`` neighbours, means over classes."""

    k: int
    precision: float
    recall: float
    density: float
    coverage: float


class Rates(_Part):
    """Rank-1 and rank-5 identification rates beside that of chance; None where there are no more people than ranks."""

    chance: float
    rank1: float | None = None
    rank5: float | None = None


class Verification(_Part):
    """The true match rate at a false match rate, over so many comparisons."""

    false_match_rate: float
    true_match_rate: float | None = None
    comparisons: int


class Identification(Rates):
    """Re-identification of rebuilt pictures in a gallery of private images and distractors, closed set."""

    people: int
    distractors: int
    gallery: int
    private_alone: Rates
    to_others: float | None = None
    verification: Verification
    ranks: tuple[tuple[int, ...], ...] | None = None


class PriorFigures(_Part):
    """The evaluator's answers on the generator's samples, before any attack, see `prior_figures`."""

    samples: int
    shares: tuple[float, ...] | None = None
    classes_drawn: int
    confidence: float
    histogram: tuple[int, ...]


class ClassFigures(_Part):
    """The literature's metrics of model inversion, defined in `class_figures`."""

    n: int
    classes: int
    images_per_class: int
    chance: float
    evaluator_on_private: float
    top1: TopK | None = None
    top5: TopK | None = None
    target_confidence: Score
    confidence_gap: float | None = None
    delta_eval: Score
    delta_eval_squared: Score
    centroid_eval: Score
    frechet_eval: Frechet | None = None
    diversity_eval: Diversity | None = None
    identification: Identification | None = None
    prior: PriorFigures | None = None
    open_set: OpenSet | None = Field(default=None, description="where the prior's classes are others")
    embedded: Embedded | None = Field(default=None, description="where the judge was given an embedder")
    private_fit: PrivateFit | None = Field(default=None, description="not told by records of the older rule")


class EvaluatorJudge(_Part):
    """The evaluator: accuracy on its test images, and on the true images (or class means)."""

    name: str
    accuracy: float
    architecture: str | None = None
    seed: int | None = None
    on_truth: float | None = None


class Service(_Part):
    """Cost of an output policy for honest users, see `measure_service`."""

    accuracy: float
    accuracy_without: float | None = None
    distortion: float
    changed: float | None = None
    policy: Settings = Field(default_factory=dict)


class Leakage(_Part):
    """Attack-free measures of a target, see `eval/targets/leakage.py`; some are None without noise."""

    target: str | None = None
    mse_gaussian_estimate: float = 0.0
    samples: int | None = Field(default=None, description="images that it is of; not told before record version 3")
    information_nats: float | None = None
    image_entropy_nats: float | None = None
    image_dimensions: int | None = None
    feature_dimensions: int | None = None
    noise_variance: float | None = None
    fsinfo_nats_per_pixel: float | None = None
    effective_dimensions: float | None = None
    not_measured: dict[str, str] | None = Field(default=None, description="figures left out, with the reason")
    assumptions: tuple[str, ...] | None = None
    config: Settings | None = None
    provenance: Provenance | None = None

    @model_validator(mode="before")
    @classmethod
    def _by_its_name(cls, values: object) -> object:
        """Reads what was called a bound as the estimate that it is, in files that say no version too."""
        if isinstance(values, dict) and "mse_bound" in values:
            values = {("mse_gaussian_estimate" if key == "mse_bound" else key): each for key, each in values.items()}
        return values

    def brief(self) -> Self:
        """The figures alone."""
        return self.model_copy(update=dict.fromkeys(("target", "assumptions", "config", "provenance")))


class Refound(_Part):
    """The share of victims that are found again, its standard error over them, and the shares of single crossings."""

    share: float
    error: float | None = None
    crossings: tuple[float, ...] | None = None


class PairRate(_Part):
    """The rate of pairs of one class that are told to be so, see `pair_match_rate`."""

    rate: float | None = None
    error: float | None = None
    genuine: int
    impostor: int


class Probed(_Part):
    """How often a probe of the features is right about the victims, beside the share of the most frequent value."""

    right: float
    error: float | None = None
    majority: float
    victims: int


class Linkage(_Part):
    """What a target's features tell without a picture, see `eval/targets/linkage.py`."""

    target: str | None = None
    victims: int
    public: int
    queries: int
    chance: float
    refound: dict[str, dict[str, Refound]]
    verified: dict[str, PairRate] | None = None
    label: Probed | None = None
    attributes: dict[str, Probed | None] = Field(default_factory=dict)
    config: Settings | None = None
    provenance: Provenance | None = None


class FeaturesPlace(_Part):
    """Place of a cell in a campaign on features; ``plus`` names the defenses stacked on top of the method."""

    id: str = ""
    campaign: str = ""
    dataset: str
    model: str
    method: str
    plus: str | None = None
    attack: str
    seed: int
    views: int = 1
    target: str
    codec: str = "fp32"


class FigurePlace(_Part):
    """Place of a cell in a campaign of figures: its row, with target, output policy, shared scores and knowledge."""

    id: str = ""
    campaign: str = ""
    kind: Literal["victims", "classes"]
    figure: str = ""
    row: str = ""
    dataset: str
    classes: int | None = None
    auxiliary: str = "same"
    share: int = 0
    policy: Settings = Field(default_factory=dict)
    purify: Settings | None = None
    attack: str
    seed: int
    target: str


Place = FeaturesPlace | FigurePlace


def parse_place(document: Mapping[str, Any], *, source: str) -> Place:
    """Parses the place of a cell from a plan or a user's file.

    Raises:
        ValueError: It is of neither kind; the message begins with ``source``.
    """
    kind: type[FeaturesPlace] | type[FigurePlace] = FeaturesPlace if "method" in document else FigurePlace
    return kind.parse(document, source=source)


class _Record(_Part):
    """The fields of all records; see `VictimsRecord` and `ClassesRecord`.

    ``scores`` are by the keys of `eval.record.metrics`. ``images`` are digests: of the scored images, and of the
    attacker's own. ``constant_mse`` is the MSE of the constant predictor, the mean of the true pictures. ``places``,
    ``leakage`` and ``linkage`` are only in ``records.jsonl``, which stands without the campaign's folders.
    """

    version: Literal[3] = 3
    id: str
    order: int = 0
    cell: Place | None = None
    target: Target
    attack: AttackRun
    threat_model: ThreatModel
    n: int = Field(description="images or pictures that were scored")
    scores: dict[str, Score]
    not_measured: dict[str, str] | None = Field(default=None, description="metrics left out, with the reason")
    constant_mse: float | None = None
    class_means: ClassMeans | None = Field(default=None, description="of shared predictions; not told by older records")
    images: dict[str, str] = Field(default_factory=dict)
    evaluator: EvaluatorJudge | None = None
    service: Service | None = None
    wire: Wire | None = None
    provenance: Provenance
    places: tuple[tuple[str, str], ...] | None = None
    leakage: Leakage | None = None
    linkage: Linkage | None = None
    plugins: tuple[Plugin, ...] | None = Field(default=None, description="of target, attack and measures")

    @model_validator(mode="before")
    @classmethod
    def _may_be_read(cls, values: object) -> object:
        """Refuses a record whose target or attack is a plug-in's that is not allowed; measures are read without."""
        used = recorded(values.get("plugins") or () if isinstance(values, dict) else ())
        check_recorded([plugin for plugin in used if plugin.group != "splitleak.measures"], "recorded with")
        return values

    def mean(self, metric: str) -> float | None:
        """The mean of a score; None if it is not measured."""
        score = self.scores.get(metric)
        return None if score is None else score.mean

    @property
    def mse(self) -> float:
        """The mean squared error, which every record has."""
        return self.scores["mse"].mean

    def write(self, path: Path) -> None:
        """Writes one JSON file, whole or not at all."""
        write_json(path, self.document())

    def brief(self) -> Self:
        """The record without values of single images, histories and other long lists, see `brief`."""
        return self.parse(brief(self.document()), source=self.id)


class VictimsRecord(_Record):
    """Victims' images were rebuilt, from features or from shared predictions."""

    kind: Literal["victims"] = "victims"


class ClassesRecord(_Record):
    """Pictures of the target's classes were rebuilt; ``chance`` is one over the classes."""

    kind: Literal["classes"] = "classes"
    chance: float
    figures: ClassFigures | None = None


Record = VictimsRecord | ClassesRecord
_KINDS: Mapping[str, type[VictimsRecord] | type[ClassesRecord]] = {"victims": VictimsRecord, "classes": ClassesRecord}


def brief(document: Any) -> Any:  # noqa: ANN401  # any JSON
    """``document`` without values of single images, histories and other long lists; hits are kept."""
    if isinstance(document, Mapping):
        kept = {key: value for key, value in document.items() if key not in ("values", "history")}
        lists = {key: v for key, v in kept.items() if isinstance(v, list) and key != "hits"}
        dropped = {key for key, v in lists.items() if key in _OF_IMAGES or len(v) > _LONG_LIST}
        return {key: brief(v) for key, v in kept.items() if key not in dropped}
    return [brief(item) for item in document] if isinstance(document, list) else document


def load_record(folder: Path) -> Record:
    """Reads the record in ``folder``, of any version.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is invalid, or of an unknown version.
    """
    return parse_record(read_document(folder / FILE), source=str(folder / FILE))


def load_lines(path: Path) -> list[Record]:
    """The records of a ``records.jsonl``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line is not a valid record; the message has its number.
    """
    return [parse_record(document, source=source) for source, document in read_lines(path)]


def parse_record(document: object, *, source: str) -> Record:
    """Validates a record, after migration from an older version.

    Raises:
        ValueError: It is invalid, or of an unknown version; the message begins with ``source``.
    """
    if not isinstance(document, dict):
        raise ValueError(f"{source}: expected a record, got {type(document).__name__}")
    version = document.get("version", 1)
    while isinstance(version, int) and version in MIGRATIONS:
        try:
            document = MIGRATIONS[version](document)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if str(error).startswith(source):
                raise
            what = f"a record of version {version}"
            raise ValueError(f"{source}: expected {what}, but {type(error).__name__}: {error}") from None
        version = document["version"]
    if version != VERSION:
        raise ValueError(f"{source}: expected a record of version 1 to {VERSION}, got {version!r}; update splitleak")
    kind = str(document.get("kind"))
    if kind not in _KINDS:
        raise ValueError(f"{source}: expected a record of kind {' or '.join(_KINDS)}, got {kind!r}")
    return _KINDS[kind].parse(document, source=source)


def _from_1(old: Mapping[str, Any]) -> dict[str, Any]:
    """Version 1 had neither kind nor threat model nor digests, and mixed scores with counts."""
    attack, cell, score = dict(old["attack"]), dict(old.get("cell") or {}), dict(old["score"])
    classes = "recognised" in score
    service = cell.pop("service", None)
    if "method" in cell:
        cell.pop("kind", None)
    name = attack.pop("attack")
    findings, provenance = attack.pop("findings", {}), attack.pop("provenance")
    threat = {
        "sees": "nothing" if classes else _seen_by(name, service),
        "auxiliary": old.get("auxiliary"),
        **{key: attack.pop(key) for key in _OF_THREAT if key in attack},
    }
    target = dict(old["target"])
    dataset = target.get("dataset", {"dataset": ""})
    new: dict[str, Any] = {
        "version": 2,
        "kind": "classes" if classes else "victims",
        "id": old.get("id", cell.get("id", "")),
        "order": old.get("order", 0),
        "cell": cell or None,
        "target": {**target, "design": target["target"], "dataset": dataset},
        "attack": {**attack, "name": name, "findings": findings, "provenance": provenance},
        "threat_model": threat,
        "n": score.pop("n"),
        "service": service,
        **{key: old[key] for key in _KEPT if key in old},
    }
    del new["target"]["target"]
    if classes:
        new["chance"] = score.pop("chance")
    new["scores"] = {key: value if isinstance(value, Mapping) else {"mean": value} for key, value in score.items()}
    return new


def _from_2(old: Mapping[str, Any]) -> dict[str, Any]:
    """Version 2 called the estimate of the MSE under a Gaussian model a bound, which `Leakage` reads."""
    return {**old, "version": 3}


_OF_THREAT = ("knowledge", "queries", "draws", "views", "access", "adaptive", "ignores_output_policy")
_KEPT = ("figures", "evaluator", "wire", "provenance", "constant_mse", "places", "leakage")


def _seen_by(attack: str, service: object) -> str:
    """The observations of an attack; of one that no longer exists, inferred from whether there was a service."""
    kind = ATTACKS.get(attack)
    if kind is not None:
        return kind.takes
    return "nothing" if attack in CLASS_ATTACKS else "features" if service is None else "scores"


MIGRATIONS: Mapping[int, Callable[[Mapping[str, Any]], dict[str, Any]]] = {1: _from_1, 2: _from_2}
"""By version, the migration to the next."""
