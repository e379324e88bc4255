"""A network all of whose numbers are its step, saved and restored."""

import torch
from torch import nn

from cikd_cli.engine.checkpoint import Progress, load_checkpoint, save_checkpoint


def network(step):
    """A network and its optimizer, every number of them equal to `step`."""
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    with torch.no_grad():
        for tensor in (*model.parameters(), *(m for s in optimizer.state.values() for m in s.values())):
            tensor.fill_(step)
    return model, optimizer


def save(run, step, **settings):
    model, optimizer = network(step)
    save_checkpoint(run, method=model, optimizer=optimizer, average=None, progress=Progress(step), **settings)


def load(run, told=None):
    """The step of the checkpoint that is restored; every number restored has to be of that step."""
    model, optimizer = network(-1)
    warn = (told if told is not None else []).append
    progress = load_checkpoint(run, method=model, optimizer=optimizer, average=None, warn=warn)
    tensors = (*model.parameters(), *(m for s in optimizer.state.values() for m in s.values()))
    assert {float(x) for tensor in tensors for x in tensor.detach().flatten()} == {progress.step or -1.0}
    return progress.step


def tear(path):
    path.write_bytes(path.read_bytes()[:-100])
