"""The Hugging Face hub: files out of its cache, or fetched once it has answered; without it, how else to get them."""

from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TypeVar
from urllib.parse import urlsplit

from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils._validators import validate_repo_id

from cikd_cli import console
from cikd_cli.errors import CikdError

SECONDS = 8.0  # for the hub's first answer, with its address looked up; a download by itself retries for a minute
WEIGHTS = (
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)

T = TypeVar("T")


class Repository:
    """A repository by name, `owner/name` or `owner/name@revision`; asked at most once, and for what is not here.

    remedy: what to do without the hub, as a hint. Raises CikdError for a name that the hub does not allow.
    """

    def __init__(self, words: str, *, remedy: str) -> None:
        self.name, _, revision = words.partition("@")
        self._revision = revision or None
        self._remedy = remedy
        self._listed: frozenset[str] | None = None
        try:
            validate_repo_id(self.name)
        except HFValidationError as error:
            raise CikdError(
                f"{words!r} is no name of a repository.", hint="--teacher hf-hub:timm/vit_base_patch16_224.dino"
            ) from error

    def file(self, *names: str) -> Path | None:
        """The first of these files that the cache has, else the first that the repository has; None: it has none.

        Raises CikdError when the hub has to be asked and does not answer, or knows no such repository.
        """
        for name in names:
            held = try_to_load_from_cache(self.name, name, revision=self._revision)
            if isinstance(held, str):
                return Path(held)
        if self._listed is None:
            self._listed = self._ask()
        found = next((name for name in names if name in self._listed), None)
        if found is None:
            return None
        try:
            return Path(hf_hub_download(self.name, found, revision=self._revision))
        except Exception as error:  # the hub's, its HTTP client's and the file system's errors have no common base
            raise self._absent(_reason(error)) from error

    def held(self, name: str) -> Path | None:
        """This file as `file` gives it, but None too where the hub does not answer."""
        try:
            return self.file(name)
        except CikdError:
            return None

    def _ask(self) -> frozenset[str]:
        """The names of the repository's files."""
        if constants.HF_HUB_OFFLINE:
            raise self._absent("HF_HUB_OFFLINE is set")
        console.show_waiting(f"looking for {self.name} at {_host()} …")
        try:
            info = _within(SECONDS, lambda: HfApi().model_info(self.name, revision=self._revision, timeout=SECONDS))
        except (RepositoryNotFoundError, RevisionNotFoundError) as error:
            raise CikdError(
                f"{_host()} has no repository {self.name}{f' of revision {self._revision}' if self._revision else ''}, "
                "or it is not open to everyone.",
                hint="look at its name; a closed one needs  hf auth login",
            ) from error
        except Exception as error:
            raise self._absent(_reason(error)) from error
        return frozenset(file.rfilename for file in info.siblings or ())

    def _absent(self, reason: str) -> CikdError:
        return CikdError(
            f"The weights of {self.name} are not on this machine, and {_host()} cannot be asked ({reason}).",
            hint=self._remedy,
        )


def in_hub_cache(repository: str, file: str | None = None) -> bool:
    """Whether a repository's weights are on this machine: `file`, or one under a usual name."""
    names = [file] if file else WEIGHTS
    return any(isinstance(try_to_load_from_cache(repository, name), str) for name in names)


def remedy(repository: str, files: str, then: str) -> str:
    """The hint of who has no hub: fetch `files` of a repository elsewhere, and `then`, or fill the cache."""
    name = repository.partition("@")[0]
    folder = f"models--{name.replace('/', '--')}"
    return (
        f"where there is a network, download {files} from {constants.ENDPOINT}/{name}/tree/main, {then}; "
        f"or copy {folder} from its ~/.cache/huggingface/hub to {constants.HF_HUB_CACHE}"
    )


def _within(seconds: float, ask: Callable[[], T]) -> T:
    """The answer, or TimeoutError: looking up an address knows no time-out of its own."""
    answers: SimpleQueue[tuple[T | None, Exception | None]] = SimpleQueue()

    def answer() -> None:
        try:
            answers.put((ask(), None))
        except Exception as error:
            answers.put((None, error))

    Thread(target=answer, daemon=True).start()
    try:
        value, error = answers.get(timeout=seconds)
    except Empty:
        raise TimeoutError(f"no answer within {seconds:g} s") from None
    if error is not None:
        raise error
    return value  # type: ignore[return-value]


def _host() -> str:
    return urlsplit(constants.ENDPOINT).netloc


def _reason(error: Exception) -> str:
    """'ConnectError: Connection refused', 'HTTPStatusError: 403 Forbidden', at most a line."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return f"it answers {status}"
    if "Timeout" in type(error).__name__:
        return f"no answer within {SECONDS:g} s"
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:160]
