"""The batch of a small set, where nobody names one, and the images that an epoch leaves out."""

LEAST_STEPS = 8  # of an epoch; fewer than that, and a small set is hardly trained on
FEW = 0.03  # of the images: so many may sit out an epoch without a word


def fitting_batch(most: int, images: int, processes: int = 1) -> int:
    """The batch for so many training images: `most`, or fewer for at least LEAST_STEPS an epoch that waste few images.

    A multiple of `processes`. Of the sizes down to half of the largest it is the largest that leaves out few images,
    else the one that leaves out fewest.
    """
    if most % processes == 0 and images // most >= LEAST_STEPS and not many_left_out(most, images):
        return most
    if processes > most:
        return most  # `TrainLoader` refuses it, with a sentence
    largest = max(processes, min(most, images // LEAST_STEPS) // processes * processes)
    sizes = range(largest, largest // 2, -processes)
    return next((size for size in sizes if not many_left_out(size, images)), min(sizes, key=lambda size: images % size))


def many_left_out(batch: int, images: int) -> bool:
    """Whether the last, incomplete batch, which an epoch drops, is more than a few of the images."""
    return images % batch > FEW * images
