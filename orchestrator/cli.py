"""``colad``: the command line. Thin: parse, call, print.

Exit codes: 0 done; 2 something to correct (one message, no traceback); 130 stopped by Ctrl-C and
143 by SIGTERM, after writing a checkpoint.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator.data.text import brief, inert, shown
from orchestrator.errors import ConfigError, CoTrainError
from orchestrator.quiet import leave_notebook, quiet_environment

app = typer.Typer(
    name="colad",
    help="Co-training of object detectors: networks in Ray actors decide label assignments.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Datasets: draw, convert, inspect.", no_args_is_help=True)
app.add_typer(data_app, name="data")

console = Console(highlight=False)
error_console = Console(stderr=True, highlight=False)

ConfigArgument = Annotated[Path, typer.Argument(help="Configuration file.", show_default=False)]
MoreArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[FIELD=VALUE]...", help="More of --set.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Override a field; may list several."),
]


WaitOption = Annotated[
    float | None,
    typer.Option(
        "--wait-for-resources",
        metavar="[SECONDS]",
        help="Wait for resources that the cluster lacks; without a number, without end.",
    ),
]


@contextlib.contextmanager
def _naming(config: Path) -> Iterator[None]:
    """Put the configuration file before messages that begin with one of its fields."""
    from orchestrator.config import RunConfig

    try:
        yield
    except CoTrainError as error:
        field = re.match(r"\w+", str(error))
        if field and field.group() in RunConfig.__dataclass_fields__ and len(error.args) == 1:
            raise type(error)(f"{config}: {error}") from error
        raise


def _overrides(first: list[str] | None, more: list[str] | None) -> list[str]:
    return [*(first or []), *(more or [])]


@app.command()
def train(
    config: ConfigArgument,
    more: MoreArgument = None,
    set_: SetOption = None,
    work_dir: Annotated[
        Path | None, typer.Option(help="Run directory. [default: runs/NAME_OF_CONFIG]")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run there.")] = False,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster, host:port. [default: RAY_ADDRESS, else local]")
    ] = None,
    wait_for_resources: WaitOption = None,
) -> None:
    """Train the networks of a configuration together."""
    from orchestrator.config_file import load_config
    from orchestrator.evaluation import metrics_table
    from orchestrator.launcher import launch
    from orchestrator.live_view import LiveView

    run_config = load_config(config, _overrides(set_, more))
    run_dir = work_dir or Path("runs") / config.stem
    with LiveView(console, title=f"{config.stem} -> {run_dir}") as view, _naming(config):
        result = launch(
            run_config,
            run_dir,
            resume=resume,
            address=address,
            view=view,
            wait_s=wait_for_resources,
        )
    if result.evaluations:
        console.print(metrics_table(result.evaluations))
    restarts = f" after {result.retries} restart(s)" if result.retries else ""
    console.print(
        f"{result.outcome} at iteration {result.iteration}{restarts}; run directory: "
        f"{escape(str(run_dir))}",
        soft_wrap=True,
    )
    if result.outcome == "stopped":
        console.print("go on with: the same command and --resume")
        raise typer.Exit(128 + (result.signal or signal.SIGINT))


@app.command()
def watch(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
) -> None:
    """Attach to a run that is being trained: its live view, from this or another machine."""
    from orchestrator.live_view import LiveView
    from orchestrator.watch import watch as follow

    try:
        with LiveView(console, title=str(run)) as view:
            end = follow(run, view)
    except KeyboardInterrupt:
        console.print("no longer watching; the run goes on")
        return
    if end.outcome == "failed":
        error_console.print(escape(end.error), soft_wrap=True)
        raise typer.Exit(2)
    if not end.outcome:
        console.print("its launcher is gone; colad train ... --resume goes on with the run")
        raise typer.Exit(2)
    console.print(f"{end.outcome} at iteration {end.progress.iteration}")


@app.command("eval")
def evaluate(
    target: Annotated[
        Path, typer.Argument(help="Run directory, checkpoint in one, or exported .pth.")
    ],
    more: MoreArgument = None,
    set_: SetOption = None,
    split: Annotated[str, typer.Option(help="val, train, or a COCO annotation file.")] = "val",
    config: Annotated[
        Path | None,
        typer.Option(help="mmdet configuration of a .pth. [default: config.py beside it]"),
    ] = None,
    network: Annotated[str | None, typer.Option(help="Only this network.")] = None,
    per_class: Annotated[bool, typer.Option("--per-class", help="AP of every class.")] = False,
    voc: Annotated[
        str | None, typer.Option(metavar="area|11points", help="VOC's mAP at IoU 0.5, too.")
    ] = None,
    complexity: Annotated[
        bool, typer.Option("--complexity", help="Parameters and multiply-adds, too.")
    ] = False,
    speed: Annotated[bool, typer.Option("--speed", help="Images per second, too.")] = False,
    property_map: Annotated[
        str | None,
        typer.Option(metavar="larger|half", help="Overlap of ALA's property map with the boxes."),
    ] = None,
    scales: Annotated[
        str | None,
        typer.Option(metavar="WxH,WxH...", help="Multi-scale testing: these scales, with flips."),
    ] = None,
    errors: Annotated[
        bool, typer.Option("--errors", help="AP50 that each kind of error costs, too.")
    ] = False,
) -> None:
    """COCO metrics of trained networks; on request VOC's, size, speed and more."""
    from orchestrator.evaluate_run import Extras, evaluate_target
    from orchestrator.evaluation import metrics_table, per_class_table
    from orchestrator.multi_scale import parse_scales

    results = evaluate_target(
        target,
        split=split,
        config=config,
        network=network,
        overrides=_overrides(set_, more),
        extras=Extras(
            voc=voc,
            complexity=complexity,
            speed=speed,
            property_map=property_map,
            errors=errors,
            scales=() if scales is None else parse_scales(scales),
        ),
    )
    coco = {name: report.coco for name, report in results.items()}
    console.print(metrics_table(coco))
    if per_class:
        console.print(per_class_table(coco))
    for line in _extras_lines(results, per_class=per_class):
        console.print(escape(inert(line)), soft_wrap=True)


def _extras_lines(results: Mapping[str, Any], *, per_class: bool) -> Iterator[str]:
    """What was measured besides COCO's metrics, a line each."""
    for name, report in results.items():
        if (voc := report.voc) is not None:
            yield f"{name}: VOC mAP {voc.mean:.1f} ({voc.mode}, IoU {voc.iou:g})"
        if voc is not None and per_class:
            yield "  " + "  ".join(f"{cls} {ap:.1f}" for cls, ap in voc.per_class.items())
        if (size := report.complexity) is not None:
            yield (
                f"{name}: {size.parameters / 1e6:.3g} M parameters, "
                f"{size.multiply_adds / 1e9:.3g} G multiply-adds (FLOPs in papers) on "
                f"{size.input_hw[0]} x {size.input_hw[1]}"
            )
        if (speed := report.speed) is not None:
            yield (
                f"{name}: {speed.images_per_second:.3g} images/s one at a time ({speed.device}, "
                f"{speed.threads} CPU threads, {speed.num_images} images)"
            )
        if (parts := report.property_map) is not None:
            yield (
                f"{name}: property map IoU {parts.foreground:.1f} foreground, "
                f"{parts.background:.1f} background ({parts.mode}, {parts.num_images} images)"
            )
        if (lost := report.errors) is not None:
            yield f"{name}: AP50 lost by errors of " + ", ".join(
                f"{kind.replace('_', ' ')} {gain:.1f}" for kind, gain in lost.gains.items()
            )


@app.command()
def check(
    config: ConfigArgument,
    more: MoreArgument = None,
    set_: SetOption = None,
    work_dir: Annotated[Path | None, typer.Option(help="Run directory to be used.")] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster, host:port.")] = None,
) -> None:
    """Everything that can fail, before it costs: data, networks, weights, memory, cluster."""
    from orchestrator.config_file import load_config
    from orchestrator.preflight import preflight

    run_config = load_config(config, _overrides(set_, more))
    run_dir = work_dir or Path("runs") / config.stem
    with _naming(config):
        for line in preflight(run_config, run_dir, address=address):
            console.print(f"[green]ok[/] {escape(inert(line))}", soft_wrap=True)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Run directory, or a checkpoint in one.")],
    out: Annotated[Path, typer.Argument(help="Folder for config.py and weights.pth.")],
    network: Annotated[str, typer.Option(help="Which network.")],
) -> None:
    """Write one network as a plain mmdet config and checkpoint."""
    from orchestrator.export import export_network

    config_path, weights_path = export_network(run, network, out)
    console.print(f"{escape(str(config_path))}\n{escape(str(weights_path))}", soft_wrap=True)


@app.command("fetch")
def fetch_run(
    uri: Annotated[str, typer.Argument(help="What checkpoint.upload was: s3://bucket/folder.")],
    run: Annotated[Path, typer.Argument(help="New run directory.")],
) -> None:
    """Bring back a run that was copied to an object store."""
    from orchestrator.mirror import fetch

    console.print(f"{fetch(uri, run)} files in {escape(str(run))}", soft_wrap=True)


@app.command()
def tune(
    space: Annotated[
        str | None, typer.Argument(help="Which space, dw-table2 for example.", show_default=False)
    ] = None,
    more: MoreArgument = None,
    set_: SetOption = None,
    list_: Annotated[bool, typer.Option("--list", help="Show all spaces.")] = False,
    config: Annotated[
        Path | None,
        typer.Option(help="Start from this configuration. [default: the space's tiny one]"),
    ] = None,
    work_dir: Annotated[
        Path | None, typer.Option(help="Sweep directory. [default: runs/SPACE]")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Runs of every setting.")] = 1,
    samples: Annotated[int, typer.Option(help="Settings of a search.")] = 8,
    scheduler: Annotated[
        str, typer.Option(help="none; asha or median end weak trials early; pbt moves them.")
    ] = "none",
    search: Annotated[
        str | None,
        typer.Option(help="grid, random or optuna. [default: grid for tables, else random]"),
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(help="Trials at once. [default: what fits]")
    ] = None,
    gpus_per_network: Annotated[
        float | None, typer.Option(help="GPUs, or a share of one, for every network.")
    ] = None,
    max_iterations: Annotated[int | None, typer.Option(help="Length of every trial.")] = None,
    mlflow: Annotated[
        str | None, typer.Option(metavar="URI", help="Report to this MLflow server or folder.")
    ] = None,
    wandb: Annotated[
        str | None, typer.Option(metavar="PROJECT", help="Report to Weights & Biases.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the sweep there.")] = False,
    address: Annotated[str | None, typer.Option(help="Ray cluster, host:port.")] = None,
    wait_for_resources: WaitOption = None,
) -> None:
    """Sweep a table of a paper, or search around a method's defaults."""
    from orchestrator.sweep.launch import launch_sweep
    from orchestrator.sweep.plan import SweepOptions, plan_sweep
    from orchestrator.sweep.results import list_spaces, report_sweep
    from orchestrator.sweep.trackers import Trackers

    if list_:
        table = Table("space", "trials", "title", box=None)
        for row in list_spaces():
            table.add_row(*map(escape, row))
        console.print(table)
        return
    if space is None:
        raise ConfigError("which space? `colad tune --list` shows all")
    options = SweepOptions(
        config=config,
        overrides=_overrides(set_, more),
        seeds=seeds,
        samples=samples,
        search=search,
        population=scheduler == "pbt",
        max_iterations=max_iterations,
        gpus_per_network=gpus_per_network,
    )
    plan = plan_sweep(space, options)
    sweep_dir = work_dir or Path("runs") / space
    console.print(f"{space}: {plan.size} trials -> {escape(str(sweep_dir))}")
    result = launch_sweep(
        plan,
        sweep_dir,
        resume=resume,
        address=address,
        wait_s=wait_for_resources,
        scheduler=scheduler,
        concurrency=concurrency,
        say=lambda line: console.print(escape(line), soft_wrap=True),
        trackers=Trackers(mlflow=mlflow, wandb=wandb),
    )
    console.print(escape(report_sweep(result.sweep_dir).text), soft_wrap=True)
    if result.signal is not None:
        console.print("stopped; go on with: the same command and --resume")
        raise typer.Exit(128 + (result.signal or signal.SIGINT))


@app.command()
def assign(
    target: Annotated[Path, typer.Argument(help="Image, COCO file or data folder.")],
    more: MoreArgument = None,
    set_: SetOption = None,
    config: Annotated[list[Path] | None, typer.Option(help="Method; may be repeated.")] = None,
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(help="Run, checkpoint in one or .pth, for the --config of the same place."),
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="COCO file of an image. [default: one near it]")
    ] = None,
    image: Annotated[str | None, typer.Option(help="File name of one image of the data.")] = None,
    count: Annotated[int, typer.Option(help="Otherwise: how many first images.")] = 1,
    out: Annotated[Path, typer.Option(help="File (.png, .jpg, .pdf, .svg) or folder.")] = Path(
        "assignments"
    ),
) -> None:
    """Draw what methods assign on an image, side by side, without training."""
    from orchestrator.report.assign import AssignRequest, draw_request

    request = AssignRequest(
        target=target,
        configs=tuple(config or ()),
        checkpoints=tuple(checkpoint or ()),
        overrides=tuple(_overrides(set_, more)),
        annotations=annotations,
        image=image,
        count=count,
        out=out,
    )
    for path, lines in draw_request(request):
        for line in (str(path), *(f"  {line}" for line in lines)):
            console.print(escape(line), soft_wrap=True)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run directories, or one sweep directory.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the page. [default: RUN/report]")
    ] = None,
) -> None:
    """A page on a run, or on several compared; of a sweep its table, figures, best configuration.

    Also while they run.
    """
    sweep = next((path for path in runs if (path / "sweep.json").is_file()), None)
    if sweep is not None:
        if len(runs) > 1 or out is not None:
            raise ConfigError(f"{sweep} is a sweep: give it alone, without --out")
        _report_sweep(sweep)
        return
    from orchestrator.report.build import report_runs

    console.print(escape(str(report_runs(runs, out))), soft_wrap=True)


def _report_sweep(sweep: Path) -> None:
    from orchestrator.sweep.results import report_sweep

    written = report_sweep(sweep)
    console.print(escape(inert(written.text)), soft_wrap=True)
    for path in (written.results, written.table, written.best, *written.figures):
        if path is not None:
            console.print(escape(str(path)), soft_wrap=True)


@app.command()
def doctor() -> None:
    """What is installed, what is missing."""
    from orchestrator.doctor import diagnose

    healthy = True
    for finding in diagnose():
        mark = {"ok": "[green]ok[/]     ", "note": "[yellow]note[/]   ", "bad": "[red]bad[/]    "}
        console.print(f"{mark[finding.level]} {escape(finding.text)}", soft_wrap=True)
        healthy = healthy and finding.level != "bad"
    if not healthy:
        raise typer.Exit(2)


@data_app.command()
def shapes(
    root: Annotated[Path, typer.Argument(help="Folder to make.")],
    train_images: Annotated[int | None, typer.Option("--train", help="Training images.")] = None,
    val_images: Annotated[int | None, typer.Option("--val", help="Validation images.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of the images, pixels.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed.")] = None,
) -> None:
    """Draw a toy dataset of shapes."""
    from orchestrator.data.shapes import make_shapes

    given: dict[str, Any] = dict(train=train_images, val=val_images, size=size, seed=seed)
    made = make_shapes(root, **{key: value for key, value in given.items() if value is not None})
    console.print(f"{escape(str(made))}", soft_wrap=True)


@data_app.command()
def voc2coco(
    root: Annotated[Path, typer.Argument(help="VOC folder (Annotations, ImageSets, JPEGImages).")],
    out: Annotated[Path, typer.Argument(help="COCO file to write.")],
    split: Annotated[
        str | None, typer.Option(help="Name in ImageSets/Main, without .txt. [default: all images]")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Class names, comma-separated. [default: all, by frequency]")
    ] = None,
    difficult: Annotated[
        str, typer.Option(help="Boxes marked difficult: ignore (in scoring), keep or drop.")
    ] = "ignore",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.")] = False,
) -> None:
    """Convert a split of a Pascal VOC folder to a COCO annotation file."""
    from orchestrator.data.voc import convert_voc

    if difficult not in ("ignore", "keep", "drop"):
        raise ConfigError(f"--difficult {difficult}: expected ignore, keep or drop")
    report = convert_voc(
        root,
        split=split,
        out=out,
        classes=None if classes is None else [name.strip() for name in classes.split(",")],
        difficult=difficult,  # type: ignore[arg-type]  # checked above
        overwrite=overwrite,
    )
    console.print(escape(str(report)), soft_wrap=True)


@data_app.command()
def split(
    annotations: Annotated[Path, typer.Argument(help="COCO annotation file of all images.")],
    val: Annotated[float, typer.Option(help="Share of the images to measure on.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Which images those are.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the two files.")] = False,
) -> None:
    """Split a COCO annotation file at random into train.json and val.json beside it."""
    from orchestrator.data.split import split_coco

    made = split_coco(annotations, val_share=val, seed=seed, overwrite=overwrite)
    console.print(escape(str(made)), soft_wrap=True)


@data_app.command()
def stats(
    annotations: Annotated[Path, typer.Argument(help="COCO annotation file.")],
    images: Annotated[
        Path | None, typer.Option(help="Image folder. [default: looked for near the file]")
    ] = None,
    check: Annotated[bool, typer.Option(help="Also open every image file.")] = True,
) -> None:
    """Numbers of a COCO annotation file, and the problems in it and in its images."""
    from orchestrator.data.coco import check_coco, load_coco, resolve_image_root
    from orchestrator.data.stats import dataset_stats, render_stats

    root = None
    if check:
        given = None if images is None else str(images.resolve())
        root = resolve_image_root(annotations.parent, annotations, given)
    coco_set = load_coco(annotations, root)
    console.print(render_stats(dataset_stats(coco_set)))
    if check:
        report = check_coco(coco_set)
        for warning in report.warnings:
            console.print(f"[yellow]warning[/] {escape(warning)}", soft_wrap=True)
        console.print(f"{report.images_checked} image files are readable", soft_wrap=True)


def _with_waits(arguments: Sequence[str]) -> list[str]:
    """``--wait-for-resources`` without a number means without end."""
    given = []
    for word, following in zip(arguments, [*arguments[1:], ""]):
        given.append(word)
        # 600s is meant as one, and then refused as one
        number = re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?[a-z]{0,3}|inf|nan", following)
        if word == "--wait-for-resources" and not number:
            given.append("inf")
    return given


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: one message instead of a traceback for what the user can correct.

    Args:
        arguments: of the command line; None takes this process's.
    """
    quiet_environment()
    leave_notebook()
    warnings.filterwarnings("ignore", category=UserWarning, module=r"mmengine|mmdet|mmcv")
    warnings.filterwarnings("ignore", message="torch.meshgrid: in an upcoming")  # mmdet's points
    warnings.filterwarnings("ignore", category=FutureWarning, module="mmdet")  # 3.3.0's autocast
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        app(args=_with_waits(sys.argv[1:] if arguments is None else arguments))
    except SystemExit as end:
        if end.code != signal.SIGTERM:
            raise
        error_console.print("ended by SIGTERM, not while training")  # Ray handles it there
        sys.exit(128 + signal.SIGTERM)
    except CoTrainError as error:
        # a RunFailed carries the message of an error in an actor, which names its own kind
        failed = type(error).__name__ == "RunFailed"
        _refuse("" if failed else type(error).__name__, str(error) if failed else brief(str(error)))
    except OSError as error:
        if error.filename is None or isinstance(error, (BlockingIOError, BrokenPipeError)):
            raise  # of no file: a socket, a process
        _refuse("", f"{shown(os.fspath(error.filename))}: {error.strerror}")


def _refuse(kind: str, message: str) -> None:
    head = f"[bold red]{kind}: [/]" if kind else ""
    error_console.print(f"{head}{escape(inert(message))}", soft_wrap=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
