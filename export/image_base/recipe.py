"""The recipe's steps, from packages to weights, each reading what the one before has written."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import distributed as dist
from torch.multiprocessing.spawn import spawn

from . import assets
from .devices import device_drawings, write_devices
from .drawings import Drawings, list_drawings, render_all
from .judge import recognised
from .learn_looking import LookPlan, learn_looking
from .looking import LOOKS, write_looks
from .mend import MendPlan, train_decoder
from .model import ImageBase, ModelPlan
from .pictures import fit_patch_code, picture_tensor
from .sample import GUIDANCE
from .split import DEVICES, measures_base
from .tokens import build_tokenizer, style_token
from .tower import TowerExamples, TowerPlan, TowerRun, Towers, tower_tokenizer
from .tower_graph import judged, write_tower
from .train import Examples, Run, TrainPlan, drawing_weights

__all__ = [
    "base_drawings",
    "devices",
    "fetch",
    "judge",
    "look",
    "mend",
    "pack",
    "pack_tower",
    "render",
    "start",
    "tower",
    "train",
]

DECODER = "decoder.safetensors"
PUBLIC_DRAWINGS = 256  # that travel with the weights


def fetch(work: Path) -> None:
    """Download and unpack every package."""
    for package in assets.PACKAGES:
        print(assets.fetch(package, work / "assets"))


def render(work: Path) -> None:
    """Render every drawing at 32 pixels."""
    drawings = render_all(list(list_drawings(work / "assets")), os.cpu_count() or 1)
    drawings.save(work / "drawings")
    for style, count in Counter(drawings.styles).most_common():
        print(f"{count:6} {style}")


def base_drawings(work: Path) -> tuple[Drawings, Drawings]:
    """What the base learns from, and what measures it."""
    drawings = Drawings.load(work / "drawings")
    rows: tuple[list[int], list[int]] = ([], [])
    for i, (style, name) in enumerate(zip(drawings.styles, drawings.names, strict=True)):
        if style not in DEVICES:
            rows[measures_base(f"{style}/{name}")].append(i)
    return drawings.take(rows[0]), drawings.take(rows[1])


def start(work: Path, plan: ModelPlan, seed: int) -> None:
    """Build the tokenizer and the linear code, and save untrained networks beside them."""
    learned, _ = base_drawings(work)
    weights = drawing_weights(learned)
    captions: Counter[str] = Counter()
    for caption in learned.captions:
        captions.update([caption.text, *caption.tags])
    styles = sorted({style_token(s): s for s in learned.styles}.values())
    tokenizer = build_tokenizer(captions, styles, plan.vocabulary)
    plan = replace(plan, vocabulary=tokenizer.get_vocab_size())
    code = fit_patch_code(learned.pixels, weights, plan.channels)
    torch.manual_seed(seed)
    base = ImageBase.untrained(plan, tokenizer, code)
    base.save(work / "start")
    for name, network in base.networks().items():
        print(
            f"{name}: {sum(p.numel() for p in network.parameters()) / 1e6:.2f} million parameters"
        )
    print(f"{len(learned)} drawings, {plan.vocabulary} tokens, styles {', '.join(styles)}")


def mend(work: Path, plan: MendPlan) -> None:
    """Train the decoder of ``start`` and write it beside it, as ``decoder.safetensors``."""
    base = ImageBase.load(work / "start")
    learned, measure = base_drawings(work)
    losses: list[float] = []

    def say(step: int, loss: float) -> None:
        losses.append(loss)
        if len(losses) == 100:
            print(f"step {step + 1} loss {np.mean(losses):.4f}", flush=True)
            losses.clear()

    base.decoder.train()
    train_decoder(base.decoder, base.code, learned.pixels, drawing_weights(learned), plan, say)
    save_file(base.decoder.state_dict(), work / DECODER)
    wanted = picture_tensor(measure.pixels)
    with torch.no_grad():
        coded = base.code.pictures(base.code.latents(wanted))
        for name, found in (("coded", coded), ("mended", base.decoder(coded))):
            error = (found.clamp(-1, 1) - wanted).square().flatten(1).mean(1) / 4
            print(f"{name}: {-10 * error.log10().mean():.2f} dB")


def devices(work: Path, folder: Path) -> None:
    """Write the devices' data set."""
    drawings = device_drawings(Drawings.load(work / "drawings"))
    for path in write_devices(drawings, folder):
        print(f"{path}: {path.stat().st_size} bytes")
    for device, count in Counter(drawings.styles).items():
        print(f"{count:6} {device}")


def judge(work: Path, count: int) -> None:
    """Say how recognisable drawings are: of what was learned, and of what never was."""
    base = ImageBase.load(work / "averaged")
    for name, drawings in zip(("learned", "never seen"), base_drawings(work), strict=True):
        kept = distinct(drawings)
        rows = np.random.default_rng(0).permutation(kept)[:count].tolist()
        found = recognised(base, drawings.take(rows), seed=0, guidance=GUIDANCE)
        print(f"{name}: {found.sentence()}", flush=True)


def distinct(drawings: Drawings) -> list[int]:
    """Rows of emoji and icons, less skin tones and flags, which are too alike to tell apart."""
    return [
        i
        for i, (style, caption) in enumerate(zip(drawings.styles, drawings.captions, strict=True))
        if not caption.detail
        and not style.startswith("clip art/")
        and not caption.concept.startswith("flag of")
    ]


def tower(work: Path, plan: TowerPlan) -> None:
    """Train the tower of image metrics and write it as ``tower``."""
    torch.set_num_threads(1)
    learned, _ = base_drawings(work)
    tokenizer = tower_tokenizer(learned, plan.vocabulary)
    run = TowerRun(TowerExamples.of(learned, tokenizer), tokenizer, plan)
    weights = sum(p.numel() for p in run.towers.parameters())
    print(
        f"{weights / 1e6:.2f} million weights, {len(run.examples.style_names)} styles", flush=True
    )
    losses: list[tuple[float, float]] = []

    def say(step: int, concept: float, style: float) -> None:
        losses.append((concept, style))
        if step % 100 == 0 or step == plan.steps:
            concept, style = np.mean(losses, axis=0)
            print(
                f"step {step} concept {concept:.3f} style {style:.3f} "
                f"processor {time.process_time():.0f}",
                flush=True,
            )
            losses.clear()
            run.towers.save(work / "tower")

    run.train(say)
    run.towers.save(work / "tower")


def pack_tower(work: Path, folder: Path) -> None:
    """Write the tower as ONNX, one byte a weight, and say how well it sees."""
    for path in write_tower(Towers.load(work / "tower"), folder):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        print(f"{path.name}: {path.stat().st_size} bytes, sha256 {digest}")
    _, measured = base_drawings(work)
    devices = device_drawings(Drawings.load(work / "drawings"))
    for line in judged(measured, devices, folder):
        print(line)


def pack(work: Path, folder: Path) -> None:
    """Write the averaged networks as they are committed, and some drawings that they know.

    From the drawings' gradients an export computes public directions.
    """
    ImageBase.load(work / "averaged").save(folder, pack=True)
    drawings = base_drawings(work)[0]
    kept = distinct(drawings)
    rows = np.random.default_rng(1).permutation(kept)[:PUBLIC_DRAWINGS].tolist()
    captions = [f"{style_token(drawings.styles[i])} {drawings.captions[i].text}" for i in rows]
    np.savez_compressed(
        folder / "public.npz", pixels=drawings.pixels[rows], captions=np.array(captions)
    )
    for path in sorted(folder.iterdir()):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        print(f"{path.name}: {path.stat().st_size} bytes, sha256 {digest}")


def look(work: Path, folder: Path, plan: LookPlan) -> None:
    """Train the packed base of a folder to look at pictures, and write what is added there."""
    torch.set_num_threads(1)
    losses: list[float] = []

    def say(step: int, loss: float) -> None:
        losses.append(loss)
        if step % 50 == 0 or step == plan.steps:
            seconds = time.process_time()
            print(f"step {step} loss {np.mean(losses):.4f} processor {seconds:.0f}", flush=True)
            losses.clear()

    base = ImageBase.load(folder)
    write_looks(learn_looking(base, base_drawings(work)[0], plan, say), folder / LOOKS)


def train(work: Path, plan: TrainPlan, every: int, processes: int) -> None:
    """Train from ``start``, or from the checkpoint if there is one.

    The denoiser is compiled, which takes minutes once and then a quarter less time a step.
    """
    if processes == 1:
        _train(0, work, plan, every, 1)
    else:
        meeting = work / ".meeting"
        meeting.unlink(missing_ok=True)
        given = (work, plan, every, processes)
        spawn(_train, given, nprocs=processes)  # type: ignore[no-untyped-call]


def _train(rank: int, work: Path, plan: TrainPlan, every: int, processes: int) -> None:
    torch.set_num_threads(1)
    if processes > 1:
        meeting = f"file://{(work / '.meeting').resolve()}"
        dist.init_process_group("gloo", meeting, rank=rank, world_size=processes)
    base = ImageBase.load(work / "start")
    base.networks().train()
    learned, measure = (Examples.of(d, base) for d in base_drawings(work))
    run = Run(base, plan)
    checkpoint = work / "checkpoint.pt"
    if checkpoint.exists():
        run.restore(checkpoint)
    run.trained["denoiser"].compile(dynamic=False)
    losses: list[float] = []
    began = time.monotonic()
    while run.step < plan.steps:
        losses.append(run.advance(learned))
        if rank == 0 and (run.step % 50 == 0 or run.step == plan.steps):
            seconds, processor = time.monotonic() - began, time.process_time()
            print(
                f"step {run.step} loss {np.mean(losses):.4f} seconds {seconds:.0f} "
                f"processor {processor:.0f}",
                flush=True,
            )
            losses.clear()
        if rank == 0 and (run.step % every == 0 or run.step == plan.steps):
            run.save(checkpoint)
            averaged = run.averaged()
            if (work / DECODER).exists():
                averaged.decoder.load_state_dict(load_file(work / DECODER))
            averaged.save(work / "averaged")
            print(f"step {run.step} measured {run.measured(measure):.4f}", flush=True)
