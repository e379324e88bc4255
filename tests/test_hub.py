"""The hub, by a stand-in on this machine: absent in every way it can be, and with a repository."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from foreign_weights import ARCHITECTURE, SIZE, features, hugging_face, network
from huggingface_hub import constants
from huggingface_hub.utils import close_session
from timm.models import save_for_hf

from cikd_cli.console import show_waiting
from cikd_cli.errors import CikdError
from cikd_cli.models import create_teacher, hub
from cikd_cli.models.pretrained import open_pretrained

NAME = "vit_base_patch16_224.dino"


class StandIn(BaseHTTPRequestHandler):
    """Hangs, refuses with 403, or serves the folder of its server as the repository someone/small."""

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_CONNECT(self) -> None:
        self.send_error(403)

    def log_message(self, *args: object) -> None:
        pass

    def _answer(self, *, body: bool) -> None:
        self.server.asked.append(self.path)
        if self.server.mood == "hang":
            self.server.over.wait(60)
            return
        if self.server.mood == "refuse":
            self.send_error(403)
            return
        folder = self.server.folder
        if self.path.startswith("/api/models/someone/small"):
            files = ",".join(f'{{"rfilename": "{file.name}"}}' for file in folder.iterdir())
            content = f'{{"id": "someone/small", "siblings": [{files}]}}'.encode()
        elif self.path.startswith("/someone/small/resolve/"):
            content = (folder / self.path.rpartition("/")[2]).read_bytes()
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{len(content)}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[ThreadingHTTPServer]:
    """The hub for this test, with an empty cache."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    server.mood, server.asked, server.over, server.folder = "serve", [], threading.Event(), tmp_path / "small"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    close_session()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()
    close_session()


def refusal(name: str = NAME) -> CikdError:
    with pytest.raises(CikdError) as caught:
        open_pretrained(name, num_classes=3, image_size=224)
    return caught.value


def check_what_it_says(error: CikdError, because: str) -> None:
    assert f"The weights of timm/{NAME} are not on this machine" in error.message
    assert because in error.message
    hint = str(error.hint)
    for part in (
        "model.safetensors (about 343 MB)",
        f"/timm/{NAME}/tree/main",
        f"--teacher {NAME}.safetensors",
        f"models--timm--{NAME}",
        str(constants.HF_HUB_CACHE),
        "deit_tiny_patch16_224 (23 MB)",
    ):
        assert part in hint
    assert "scratch" not in error.message + hint


@pytest.mark.parametrize("name", [NAME, f"timm/{NAME}", f"hf-hub:timm/{NAME}", f"hf_hub:timm/{NAME}"])
def test_without_a_hub_the_sentence_says_which_file_from_where_and_where_to(server, name):
    server.mood = "refuse"
    check_what_it_says(refusal(name), "it answers 403")


def test_a_hub_that_hangs_is_given_up_within_ten_seconds(server, monkeypatch):
    assert hub.SECONDS <= 10
    monkeypatch.setattr(hub, "SECONDS", 1.0)
    server.mood, started = "hang", time.monotonic()
    check_what_it_says(refusal(), "no answer within 1 s")
    assert time.monotonic() - started < 4


def test_an_address_whose_look_up_hangs_is_given_up_too(monkeypatch):
    with pytest.raises(TimeoutError, match=r"within 0\.2 s"):
        hub._within(0.2, lambda: time.sleep(5))


def test_a_refused_connection_an_unknown_address_and_a_proxy_that_refuses_are_said_at_once(server, monkeypatch):
    for address, proxy, because in (
        ("http://127.0.0.1:9", None, "ConnectError"),
        ("https://hub.invalid", None, "hub.invalid cannot be asked"),
        ("https://hub.invalid", f"http://127.0.0.1:{server.server_port}", "ProxyError: 403"),
    ):
        close_session()
        monkeypatch.setattr(constants, "ENDPOINT", address)
        if proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy)
        started = time.monotonic()
        check_what_it_says(refusal(), because)
        assert time.monotonic() - started < 5


def test_offline_mode_asks_nothing(server, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    check_what_it_says(refusal(), "HF_HUB_OFFLINE is set")
    assert not server.asked


def test_a_mistyped_name_and_an_image_size_that_does_not_fit_ask_nothing(server):
    assert "no weights named" in refusal("timm/vit_base_patch16_224.dnio").message
    with pytest.raises(CikdError, match="30 is not a multiple of the patch size 16"):
        open_pretrained(NAME, num_classes=3, image_size=30)
    assert not server.asked


def test_a_repository_that_is_not_there_is_said(server):
    server.folder.mkdir()
    assert "has no repository nobody/nothing" in refusal("hf-hub:nobody/nothing").message
    assert "is no name of a repository" in refusal("hf-hub:a/b/c").message


def test_a_repository_is_fetched_once_and_then_needs_no_network(server):
    source = network()
    save_for_hf(source, str(server.folder), safe_serialization=True)
    found = open_pretrained("hf-hub:someone/small", num_classes=5, image_size=SIZE)
    assert found.architecture == ARCHITECTURE
    assert found.origin == "pretrained weights hf-hub:someone/small"
    assert torch.equal(features(found.model), features(source))
    server.mood, server.asked[:] = "refuse", []
    again = open_pretrained("hf_hub:someone/small", num_classes=5, image_size=SIZE)
    assert torch.equal(features(again.model), features(source))
    assert not server.asked


def test_a_repository_of_hugging_faces_is_fetched_with_its_normalisation(server):
    server.folder.mkdir()
    source = hugging_face(server.folder)
    images = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (server.folder / "preprocessor_config.json").write_text(json.dumps(images))
    found = open_pretrained("hf-hub:someone/small@main", num_classes=5, image_size=SIZE)
    assert (found.architecture, found.mean) == ("vit_tiny_patch16_224", (0.1, 0.2, 0.3))
    assert torch.equal(features(found.model), features(source))
    server.asked.clear()
    assert open_pretrained("hf-hub:someone/small@main", num_classes=5, image_size=SIZE).std == (0.4, 0.5, 0.6)
    assert not server.asked


def test_a_long_download_waits_until_the_image_size_is_known_to_fit(server):
    server.folder.mkdir()
    hugging_face(server.folder)
    with pytest.raises(CikdError, match="40 is not a multiple of the patch size 16"):
        open_pretrained("hf-hub:someone/small", num_classes=5, image_size=40)
    assert not any("model.safetensors" in path for path in server.asked)


def test_timms_weights_in_the_cache_need_no_network(server, monkeypatch, tmp_path):
    name = "test_vit.r160_in1k"
    source = network("test_vit")
    folder = tmp_path / "cache" / f"models--timm--{name}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    save_for_hf(source, str(folder / "snapshots" / ("0" * 40)), safe_serialization=True)
    model = create_teacher(name, num_classes=5, image_size=SIZE, pretrained=True)
    assert torch.equal(features(model), features(source))
    assert not server.asked


def test_a_damaged_file_in_the_cache_is_said_and_not_taken_for_a_missing_network(server, tmp_path):
    name = "test_vit.r160_in1k"
    folder = tmp_path / "cache" / f"models--timm--{name}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (folder / "snapshots" / ("0" * 40) / "model.safetensors").write_bytes(b"cut off")
    error = refusal(name)
    assert "cannot be read" in error.message
    assert "delete" in str(error.hint)


def test_a_wait_is_said_on_a_terminal_only(capsys, monkeypatch):
    show_waiting("looking for x at huggingface.co …")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    show_waiting("looking for x at huggingface.co …")
    assert capsys.readouterr().err == "looking for x at huggingface.co …\n"
