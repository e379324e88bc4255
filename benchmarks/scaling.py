"""The tables of docs/scaling.md, worked out from the assumptions below: `python benchmarks/scaling.py`."""

from dataclasses import dataclass

from cikd_cli.console import show_output

IMAGES = 1.28e6  # of ImageNet
EPOCHS = 300
BATCH = 256
LATENCY = 10e-6  # seconds a hop of the ring
LINKS = {"NVLink, 300 GB/s": 300e9, "400 Gb/s, 40 GB/s": 40e9, "25 Gb/s, 3 GB/s": 3e9}  # what a ring gets out of them


@dataclass(frozen=True)
class Stage:
    """gradients: bytes in float32; rate: images a second of one GPU, modelled."""

    name: str
    gradients: float
    rate: float


STAGES = (
    Stage("finetune-teacher, ViT-B", 344e6, 3900),
    Stage("ali, LOB 10", 22e6, 12_000),
    Stage("lm", 22e6, 11_200),
    Stage("lm, logits cached", 22e6, 38_000),
)


def exchange(stage: Stage, gpus: int, link: float) -> float:
    """Seconds of a ring all-reduce: each GPU sends and receives 2(n-1)/n of the gradients."""
    return 2 * (gpus - 1) / gpus * stage.gradients / link + 2 * (gpus - 1) * LATENCY


def speedup(stage: Stage, gpus: int, link: float, batch: int = BATCH) -> float:
    """Over one GPU with the same global batch, if nothing of the exchange is hidden behind the backward pass."""
    compute = batch / stage.rate
    return compute / (compute / gpus + exchange(stage, gpus, link))


def main() -> None:
    """Print the tables."""
    counts = (2, 4, 8, 16, 64)
    show_output("MB that each GPU sends in a step")
    for stage in STAGES[:2]:
        row(stage.name, *(f"{2 * (n - 1) / n * stage.gradients / 1e6:.0f}" for n in counts))
    show_output("half of a step is exchange at n = batch * link / (2 * gradients * rate)")
    for stage in STAGES:
        ends = (f"{BATCH * link / (2 * stage.gradients * stage.rate):.1f}" for link in LINKS.values())
        row(stage.name, f"{stage.gradients / 1e6:.0f}", f"{stage.rate:,.0f}", *ends)
    show_output(f"speed-up, batch {BATCH}")
    for stage in STAGES:
        for name, link in LINKS.items():
            row(stage.name, name, *(f"{speedup(stage, n, link):.1f}" for n in counts))
    show_output(f"hours (GPU hours) for {IMAGES:,.0f} images, batch 1024 on 8 GPUs and 4096 on 64")
    for stage in STAGES:
        epochs = 50 if "teacher" in stage.name else EPOCHS
        alone = IMAGES * epochs / stage.rate / 3600
        eight = alone / speedup(stage, 8, LINKS["NVLink, 300 GB/s"], 1024)
        many = alone / speedup(stage, 64, LINKS["400 Gb/s, 40 GB/s"], 4096)
        row(stage.name, epochs, f"{alone:.1f}", f"{eight:.1f} ({8 * eight:.0f})", f"{many:.2f} ({64 * many:.0f})")


def row(*cells: object) -> None:
    """A row of a table."""
    show_output("| " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    main()
