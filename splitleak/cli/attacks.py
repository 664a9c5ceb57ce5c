"""The commands of the attacker, and of the victims who publish the scores he starts from."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from splitleak.cli.choices import choice
from splitleak.cli.documents import channel_config, half_of, read_config, read_settings
from splitleak.cli.options import (
    Again,
    ChannelFile,
    ConfigFile,
    Device,
    Json,
    Preset,
    Replace,
    Seed,
    Settings,
    Threads,
    check_beside,
    compute_on,
    read_shape,
)
from splitleak.cli.output import result

if TYPE_CHECKING:
    import torch

    from splitleak.attacker.run import Access, AttackConfig

PublicImages = Annotated[Path, typer.Option(help="The attacker's own images: .npz, folder or zip.")]
Pairs = Annotated[Path | None, typer.Option(help="Recorded queries (`splitleak query`), in place of live ones.")]
Mirrored = Annotated[bool, typer.Option(help="Send the mirror image of each of its own images, too.")]
MaxQueries = Annotated[
    str | None,
    typer.Option(
        metavar="N[,N...]",
        help="Images sent at most, a choice of --public if these are more; several: an attack for each, in OUT/N. "
        "Default: no limit.",
    ),
]
ServedName = Annotated[
    str | None, typer.Option("--model", help="The service's name for its model; default: its only one.")
]
CapturedName = Annotated[
    str | None, typer.Option("--model", help="Whose traffic in the capture; default: that of its only model.")
]
ServedScores = Annotated[
    str, choice("scores", "What the service answers; auto: logits if the output is called so. One of", "--scores")
]
Function = Annotated[
    str | None,
    typer.Option(
        metavar="MODULE:CALLABLE",
        help="Code of yours that asks instead: images (N, C, H, W) in [0, 1] to scores (N, K) or features (N, ...).",
    ),
]
ServedOutput = Annotated[str | None, typer.Option("--output", help="Which of several outputs holds the scores.")]


def predict(
    images: Annotated[Path, typer.Option(help="The victims' images: .npz, folder or zip.")],
    service: Annotated[
        str | None, typer.Option(help="HOST:PORT or http(s)://HOST:PORT of a prediction service, ours or any other's.")
    ] = None,
    function: Function = None,
    share: Annotated[
        list[int] | None, typer.Option(min=0, help="Highest scores that are published, 0 for all; repeatable.")
    ] = None,
    model: ServedName = None,
    scores: ServedScores = "auto",
    output: ServedOutput = None,
    channel: ChannelFile = None,
    out: Annotated[Path, typer.Option(help="Folder for the published scores and the ledger.")] = Path(
        "runs/predictions"
    ),
    force: Replace = False,
    as_json: Json = False,
) -> None:
    """Act as the victims: have a service classify their images, and publish the highest scores of each.

    Writes shared-M.npz for each --share, and ledger.json, the victims' own record of which id was which image.
    """
    from splitleak.edge.sharing import SharingConfig, share_predictions
    from splitleak.logs import progress

    if (service is None) == (function is None):
        raise typer.BadParameter("expected --service or --function")
    check_beside("--service", service, {"--model": model, "--output": output, "--channel": channel})
    given = {
        "service": service,
        "function": function,
        "model": model,
        "share": tuple(share or (0,)),
        "scores": scores,
        "output": output,
    }
    config = SharingConfig.parse({**given, "channel": channel_config(channel)}, source="predict")
    with progress(out.name) as report:
        published = share_predictions(config, images, out, force=force, report=report)
    right = "" if published["accuracy"] is None else f", {published['accuracy']:.1%} right"
    text = f"{out}: {published['images']} images by {published['model']!r}{right}; {', '.join(published['shared'])}"
    result(as_json, published, text)


def query(
    public: PublicImages,
    capture: Annotated[Path | None, typer.Option(help="Capture that the edge's traffic goes to.")] = None,
    edge: Annotated[
        str | None, typer.Option(help="HOST:PORT of the edge's service; its features are captured.")
    ] = None,
    service: Annotated[
        str | None, typer.Option(help="HOST:PORT or http(s)://HOST:PORT of a prediction service, instead.")
    ] = None,
    function: Function = None,
    model: ServedName = None,
    scores: ServedScores = "auto",
    output: ServedOutput = None,
    channel: ChannelFile = None,
    out: Annotated[Path, typer.Option(help="File for the recorded (image, answer) pairs.")] = Path("runs/pairs.npz"),
    draws: Annotated[int, typer.Option(min=1, help="Answers recorded per image, each with fresh noise.")] = 1,
    views: Annotated[int, typer.Option(min=1, help="Queries averaged into one answer.")] = 1,
    max_queries: Annotated[
        int | None, typer.Option(min=1, help="Images sent at most, a choice of --public if these are more.")
    ] = None,
    mirrored: Mirrored = False,
    force: Replace = False,
    as_json: Json = False,
) -> None:
    """Send public images through the edge, or to a prediction service, and record what they became, for any attack.

    An attack on such a record can be interrupted and repeated to the bit, which one on a live, noisy edge cannot.
    """
    from splitleak.attacker.queries import EdgeProbe, FunctionProbe, Probe, ServiceProbe, served_model
    from splitleak.attacker.run import record_queries
    from splitleak.logs import progress

    ways = (service is not None, function is not None, capture is not None or edge is not None)
    if sum(ways) != 1 or (capture is None) != (edge is None):
        raise typer.BadParameter("expected --service, --function, or --capture with --edge")
    check_beside("--service", service, {"--output": output})
    check_beside("--service or --function", service or function, {"--scores": scores != "auto"})
    check_beside("--service or --edge", service or edge, {"--model": model, "--channel": channel})
    reached = channel_config(channel)
    with progress(out.name) as report:
        if service is not None:
            probe: Probe = ServiceProbe(service, model, scores=scores, output=output, channel=reached, report=report)
        elif function is not None:
            probe = FunctionProbe(function, scores=None if scores == "auto" else scores, report=report)
        else:
            assert capture is not None and edge is not None  # noqa: PT018  # as checked above
            probe = EdgeProbe(edge, capture, served_model(capture, model), channel=reached, report=report)
        recorded = record_queries(
            probe, public, out, draws=draws, views=views, budget=max_queries, mirrored=mirrored, force=force
        )
    result(as_json, recorded, f"{out}: {recorded['images']} images after {recorded['queries']} queries")


def attack(
    public: Annotated[
        Path | None, typer.Option(help="The attacker's own images: .npz, folder or zip; needless if --pairs has them.")
    ] = None,
    capture: Annotated[
        Path | None, typer.Option(help="Capture of the victims' traffic; live queries are read from it too.")
    ] = None,
    edge: Annotated[str | None, typer.Option(help="HOST:PORT of the edge's service, to be queried live.")] = None,
    shared: Annotated[
        Path | None, typer.Option(help="Scores that victims share (`splitleak predict`), instead of a capture.")
    ] = None,
    features: Annotated[
        Path | None, typer.Option(help="Features of any source (N, ...): .npy, or .npz; needs --pairs or --function.")
    ] = None,
    service: Annotated[
        str | None, typer.Option(help="HOST:PORT or URL of their prediction service, to be queried live.")
    ] = None,
    function: Function = None,
    model: CapturedName = None,
    scores: ServedScores = "auto",
    output: ServedOutput = None,
    pairs: Annotated[
        Path | None,
        typer.Option(help="Recorded queries (`splitleak query`), or .npz of features and images; not live ones."),
    ] = None,
    encoder: Annotated[Path | None, typer.Option(help="White box: the edge half of the artifact.")] = None,
    head: Annotated[Path | None, typer.Option(help="The cloud half, as a curious cloud has it.")] = None,
    prior: Annotated[
        Path | None,
        typer.Option(help="Prior to search (`splitleak prior`), in place of one trained on --public by the attack."),
    ] = None,
    parts: Annotated[
        str | None,
        typer.Option(
            metavar="SHAPE+SHAPE",
            help="Tensors that a captured vector packs, or was: 64x56x56+128x28x28; default: what --encoder or the "
            "answers to queries tell.",
        ),
    ] = None,
    views: Annotated[int, typer.Option(min=1, help="Consecutive requests of one victim that are averaged.")] = 1,
    crossings: Annotated[
        int | None, typer.Option(min=1, help="Requests that show one victim, the first --views of which count.")
    ] = None,
    draws: Annotated[
        int | None,
        typer.Option(
            min=1, help="Answers to use for an image: of --pairs (default: all), or at least, asked for live."
        ),
    ] = None,
    mirrored: Mirrored = False,
    channel: ChannelFile = None,
    out: Annotated[Path, typer.Option(help="Folder for the reconstructions.")] = Path("runs/attack"),
    attack: Annotated[
        str | None, choice("attacks", "Default: decoder, or prediction-inversion with --shared. One of")
    ] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    preset: Preset = "cpu",
    max_queries: MaxQueries = None,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    force: Replace = False,
    as_json: Json = False,
) -> None:
    """Reconstruct the images behind captured features, or behind shared scores.

    What an attack may know is what it is given here: queries to the edge or the service, live or on record, the
    encoder, the head. Everything captured that is not an attacker's query, everything shared, or every row of
    --features is rebuilt. It is given no victim's image, and no path to one.
    """
    from splitleak.attacker.run import Access, AttackConfig

    check_beside("--capture", capture, {"--model": model})
    check_beside("--service", service, {"--output": output})
    check_beside("--service or --function", service or function, {"--scores": scores != "auto"})
    check_beside("--service or --edge", service or edge, {"--channel": channel})
    given = read_settings(config, settings)
    name = attack or ("decoder" if shared is None else "prediction-inversion")
    about = {"preset": preset, "seed": seed, "views": views, "crossings": crossings, "draws": draws}
    asked = AttackConfig.parse({"attack": name, "settings": given, **about}, source="attack")
    access = Access(
        capture=capture,
        public=public,
        mirrored=mirrored,
        edge=edge,
        pairs=pairs,
        encoder=encoder and half_of(encoder, "edge"),
        head=head and half_of(head, "cloud"),
        prior=prior,
        shared=shared,
        features=features,
        service=service,
        function=function,
        model=model,
        scores=scores,
        output=output,
        channel=channel_config(channel),
        parts=None if parts is None else tuple(read_shape(part) for part in parts.split("+")),
    )
    _run(asked, access, max_queries, out, compute_on(device, threads), as_json, force=force)


def prior(
    public: Annotated[Path, typer.Argument(help="The attacker's own images: .npz, folder or zip.")],
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("runs/prior"),
    kind: Annotated[str, choice("priors", "gan: a generator; diffusion: a denoiser. One of")] = "gan",
    config: ConfigFile = None,
    settings: Settings = None,
    preset: Preset = "cpu",
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    force: Again = False,
    as_json: Json = False,
) -> None:
    """Train a generator or a denoiser on public images, which attacks then search.

    A generator serves attacks on a model's classes, glass and pfo; a denoiser serves drag.
    An interrupted training goes on where it was; one that is done, with the same settings and images, is reused.
    """
    from splitleak.attacker import PRIORS
    from splitleak.attacker.base import Run
    from splitleak.datasets.files import load_file
    from splitleak.logs import progress

    chosen_kind = PRIORS[kind]
    base = chosen_kind.config.paper() if preset == "paper" else chosen_kind.config()
    given = read_config(chosen_kind.config, config, settings, "prior", **base.document())
    chosen = compute_on(device, threads)
    images, checkpoint = load_file(public).train, out.with_name(f".{out.name}.checkpoint")
    with progress(out.name) as report:
        run = Run(seed=seed, device=chosen, report=report, checkpoint=checkpoint)
        trained, reused = chosen_kind.cached(given, images, out, run, force=force)
    document = {"prior": str(out), "digest": trained.digest, "images": len(images), "reused": reused}
    shown = "already trained" if reused else "trained"
    result(as_json, document, f"{out}: {shown} on {len(images)} images of {trained.image_shape}")


def import_prior(
    weights: Annotated[
        Path | None,
        typer.Argument(help="A DCGAN's: safetensors, or of torch.save; default: those of gan-face-generate, of faces."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("runs/prior"),
    size: Annotated[int, typer.Option(min=8, help="Height and width of the images, in pixels.")] = 32,
    channels: Annotated[int, typer.Option(min=1, max=3, help="1: grey, 3: colour.")] = 3,
    force: Replace = False,
    as_json: Json = False,
) -> None:
    """Take a DCGAN's generator from elsewhere as the prior: who has no pictures like the target's searches that.

    The layout is that of PyTorch's tutorial. Its images are resampled to the size and channels of the target's. Nothing
    but tensors is read of the file.
    """
    from splitleak.attacker.dcgan import face_weights, import_dcgan

    source = weights or face_weights()
    made = import_dcgan(source, size, channels, out, force=force)
    document = {"prior": str(out), "digest": made.digest, "image_shape": list(made.image_shape)}
    result(as_json, document, f"{out}: draws images of {made.image_shape}, by the weights in {source}")


def invert(
    attack: Annotated[str, choice("class-attacks", "One of")] = "class-inference",
    public: Annotated[Path | None, typer.Option(help="The attacker's own images: .npz, folder or zip.")] = None,
    service: Annotated[
        str | None, typer.Option(help="HOST:PORT or URL of a prediction service, to be queried live.")
    ] = None,
    function: Function = None,
    model: ServedName = None,
    scores: ServedScores = "auto",
    output: ServedOutput = None,
    pairs: Pairs = None,
    oracle: Annotated[
        Path | None, typer.Option(help="An artifact to query in this process, defenses and all, instead.")
    ] = None,
    labels_only: Annotated[bool, typer.Option("--labels-only", help="Use only the label of each answer.")] = False,
    artifact: Annotated[Path | None, typer.Option(help="White box: the artifact with both halves.")] = None,
    adaptive: Annotated[
        bool,
        typer.Option(
            "--adaptive", help="Bypass layers of the white box that mask gradients, such as a low-rank head's tanh."
        ),
    ] = False,
    prior: Annotated[Path | None, typer.Option(help="Generator to search (`splitleak prior`), or one's own.")] = None,
    classes: Annotated[
        int | None, typer.Option(min=1, help="Number of classes; default: as many as the service answers with.")
    ] = None,
    channel: ChannelFile = None,
    out: Annotated[Path, typer.Option(help="Folder for the reconstructions.")] = Path("runs/classes"),
    config: ConfigFile = None,
    settings: Settings = None,
    preset: Preset = "cpu",
    max_queries: MaxQueries = None,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    force: Replace = False,
    as_json: Json = False,
) -> None:
    """Reconstruct images of each class that a model was trained on (model inversion).

    What an attack may know is what it is given here: images of its own or a generator of such, queries to a prediction
    service, live or on record, or the model's weights. Who has the weights runs the model alone, and no output policy
    of a service matters.
    """
    from splitleak.attacker.run import Access, AttackConfig

    check_beside("--service", service, {"--model": model, "--output": output, "--channel": channel})
    check_beside("--service or --function", service or function, {"--scores": scores != "auto"})
    given = read_settings(config, settings)
    about = {"preset": preset, "settings": given, "seed": seed, "classes": classes}
    asked = AttackConfig.parse({"attack": attack, **about}, source="invert")
    access = Access(
        public=public,
        service=service,
        function=function,
        pairs=pairs,
        oracle=oracle,
        artifact=artifact,
        prior=prior,
        model=model,
        labels_only=labels_only,
        adaptive=adaptive,
        scores=scores,
        output=output,
        channel=channel_config(channel),
    )
    _run(asked, access, max_queries, out, compute_on(device, threads), as_json, force=force)


def _run(
    asked: "AttackConfig",
    access: "Access",
    max_queries: str | None,
    out: Path,
    device: "torch.device",
    as_json: bool,
    *,
    force: bool,
) -> None:
    """Runs the attack, once for each budget of queries."""
    from splitleak.attacker.run import run_attack
    from splitleak.logs import progress

    budgets = _budgets(max_queries)
    for budget in budgets:
        folder = out if len(budgets) == 1 else out / str(budget)
        with progress(asked.attack) as report:
            limited = asked.model_copy(update={"max_queries": budget})
            outputs = run_attack(limited, access, folder, device, report, force=force)
        result(as_json, outputs, f"{folder}: {outputs['rebuilt']} images rebuilt after {outputs['queries']} queries")


def _budgets(text: str | None) -> list[int | None]:
    """The numbers of an option like ``100,300``; one without a limit where there are none."""
    if text is None:
        return [None]
    numbers: list[int | None] = [int(part) for part in text.split(",") if part.isascii() and part.isdigit()]
    if len(numbers) != len(text.split(",")) or len(set(numbers)) < len(numbers) or 0 in numbers:
        raise typer.BadParameter(
            f"expected different numbers from 1, as 100,300,1000, got {text!r}", param_hint="--max-queries"
        )
    return numbers
