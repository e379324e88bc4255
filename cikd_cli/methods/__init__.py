"""What each training stage optimises.

A method is a module: `forward(batch, epoch) -> dict[str, Tensor]`, scalar float32 terms, epochs from 0. The loss
is the sum of the named terms, so that what is logged is what is optimised.
"""
