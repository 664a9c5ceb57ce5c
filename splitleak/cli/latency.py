"""The commands that weigh latency: its measurement, and the choice of a design under budgets."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from splitleak.cli.choices import choice
from splitleak.cli.options import (
    Device,
    EmulatedDevice,
    Json,
    ReplaceResult,
    ResultFile,
    Threads,
    check_beside,
    use_device,
)
from splitleak.cli.output import console, keep, print_json, table

Swept = Annotated[list[str] | None, typer.Option(metavar="N,N", help="Comma-separated or repeated; default: 1.")]


def latency(
    artifacts: Annotated[
        list[Path], typer.Argument(help="Artifact folders; rounds over all settings are interleaved.")
    ],
    cut: Annotated[
        list[str] | None, typer.Option(help="Further cuts of each artifact, with fresh weights; 2,6 or repeated.")
    ] = None,
    batch: Swept = None,
    engine: Annotated[list[str] | None, choice("engines", "Default: auto. Of", listed=True)] = None,
    codec: Annotated[list[str] | None, choice("codecs", "Default: fp32. Of", listed=True)] = None,
    link: Annotated[list[str] | None, choice("links", "Default: loopback. Of", also=["loopback"], listed=True)] = None,
    window: Swept = None,
    samples: Annotated[int, typer.Option(min=10, help="Requests a setting, at least; p99 is told from 500 on.")] = 200,
    alternatives: Annotated[
        bool, typer.Option(help="Also measure all on the device, and the image itself to the cloud.")
    ] = True,
    rtt_ms: Annotated[
        float | None, typer.Option(min=0, help="Round trip that break-even speeds are told for; default: 20.")
    ] = None,
    out: ResultFile = None,
    force: ReplaceResult = False,
    plot: Annotated[Path | None, typer.Option(help="Draw latency against the link's speed: .png or .svg.")] = None,
    device_profile: EmulatedDevice = None,
    threads: Threads = 1,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure a request's way, part by part, for every combination of what is given; options take lists: 1,8.

    Starts a cloud process for each target and takes all settings in turn, so that a noisy machine is noisy for all.
    Beside the split: all on the device, and the image itself to the cloud; and the link speed at which they break even.
    """
    from splitleak.eval.latency.latency import measure
    from splitleak.eval.latency.plan import NO_LINK, SweepConfig
    from splitleak.eval.latency.plot import check_plot, draw_latency
    from splitleak.logs import progress
    from splitleak.outputs import check_json_name

    if out is not None:
        check_json_name(out, "the result, which `splitleak recommend` reads")
    lists = {"cuts": cut, "batches": batch, "engines": engine, "codecs": codec, "links": link, "windows": window}
    given = {
        key: [part for value in measured for part in value.split(",")] for key, measured in lists.items() if measured
    }
    about: dict[str, Any] = {"artifacts": artifacts, "samples": samples, "alternatives": alternatives}
    about |= {} if rtt_ms is None else {"rtt_ms": rtt_ms}
    about |= {"device": device, "threads": threads, "device_profile": device_profile}
    config = SweepConfig.parse({**given, **about}, source="latency")
    told = {"--rtt-ms": rtt_ms is not None}
    check_beside("--alternatives or --plot", alternatives or plot, told)
    modelled = NO_LINK in config.links and 1 in config.windows
    check_beside(f"--link {NO_LINK} and --window 1", modelled, {**told, "--plot": plot})
    if plot is not None:
        check_plot(plot, force=force)
    use_device(device_profile, threads)
    with progress("latency") as report:
        measured = measure(config, report)
    keep(out, measured)
    if as_json:
        print_json(measured)
    else:
        _print_latency(measured)
    if plot is not None:  # last: one that fails costs no measurement
        draw_latency(measured, plot)


def recommend(
    results: Annotated[list[Path], typer.Argument(help="Folders of campaigns, or of runs such as the demo's.")],
    latency: Annotated[
        Path | None, typer.Option(help="What `splitleak latency --out` wrote of the same targets; default: none.")
    ] = None,
    max_accuracy_drop: Annotated[
        float | None, typer.Option(min=0, help="Points of accuracy below the undefended design, at most.")
    ] = None,
    max_latency_ms: Annotated[float | None, typer.Option(help="Median of one request, at most.")] = None,
    max_bytes: Annotated[float | None, typer.Option(help="Bytes of one image's message, at most.")] = None,
    link: Annotated[str | None, typer.Option(help="Which link of the latency record; default: its only one.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Which data set of the results; default: the only one.")] = None,
    as_json: Json = False,
) -> None:
    """Name the cut, defense and codec that leak least within the budgets, under the strongest attack on record.

    Says what rules the others out, which budget binds, and what was not measured. Exits with 1 where nothing fits.
    """
    from splitleak.eval.deploy.deployments import deployments, read_latency, read_results
    from splitleak.eval.deploy.recommend import Budgets
    from splitleak.eval.deploy.recommend import recommend as choose

    check_beside("--latency", latency, {"--link": link})
    limits = {"max_accuracy_drop": max_accuracy_drop, "max_latency_ms": max_latency_ms, "max_bytes": max_bytes}
    budgets = Budgets.parse(limits, source="recommend")
    timed = read_latency(latency) if latency else None
    recommendation = choose(deployments(read_results(results, dataset), timed, link), budgets, timed)
    if as_json:
        print_json(recommendation)
    else:
        _print_recommendation(recommendation)
    if recommendation["recommended"] is None:
        raise typer.Exit(1)


def _print_latency(measured: Mapping[str, Any]) -> None:
    from splitleak.eval.latency.table import BREAK_EVEN, break_even_rows, cell_rows

    shown = console(width=180)
    columns, rows, same = cell_rows(measured["cells"])
    heading = (
        f"Medians in ms over {measured['samples']} requests a setting; {same}; {measured['provenance']['hardware']}"
    )
    if measured["emulated_device"]:
        heading = f"{heading}; emulated device {measured['emulated_device']['name']}"
    faster = f"Break-even link speeds, with a round trip of {measured['rtt_ms']:g} ms; ~ marks what noise may turn over"
    tables = [(heading, columns, rows), (faster, BREAK_EVEN, break_even_rows(measured["break_even"]))]
    for title, names, lines in tables:
        if lines:
            shown.print(table(names, lines, title=title, left=("target", "way", "split", "beside"), framed=False))
    for note in measured["notes"]:
        shown.print(note, highlight=False, soft_wrap=True)


def _print_recommendation(recommendation: Mapping[str, Any]) -> None:
    from splitleak.eval.deploy.table import COLUMNS, rows, verdict

    shown, left = console(width=160), ("design", "codec", "strongest attack", "why")
    shown.print(table(COLUMNS, rows(recommendation), left=left, wrap=("why",), framed=False))
    for line in verdict(recommendation):
        shown.print(line, highlight=False, markup=False, soft_wrap=True)
