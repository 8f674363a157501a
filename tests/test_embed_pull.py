"""`embed pull`: only the published bytes get their name, whatever the network does.  No test here uses a network."""

from __future__ import annotations

import errno
import hashlib
import http.client
import io
import json
import os
import shutil
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.response import addinfourl

import pytest
from conftest import Program
from faultio import MAY_RAISE, Fail, FaultyOs, Op, installed

from crossllm.cache.console import runner
from crossllm.cache.errors import CacheCorrupt, Conflict, InputError
from crossllm.cache.files import fsio
from crossllm.embed.cli import embed
from crossllm.embed.encoders.registry import ENCODERS, find_encoder
from crossllm.embed.weights import download
from crossllm.embed.weights import pull as pulling
from crossllm.embed.weights.digests import kept_digest, kept_path
from crossllm.embed.weights.published import PUBLISHED, WeightsFile, local_weights, pulled_path, weights_folder
from crossllm.embed.weights.pull import Pulled, ask, pull

BODY = bytes(range(256)) * 5000
SHA256 = hashlib.sha256(BODY).hexdigest()
PINS = {
    "sha256": f"sha256:{SHA256}",
    "md5": "md5:" + hashlib.md5(BODY).hexdigest(),
    "git": "git:" + hashlib.sha1(b"blob %d\0" % len(BODY) + BODY).hexdigest(),
}
URL = "https://weights.example/some/where/w.pth"
Publish = Callable[..., WeightsFile]


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Publish:
    """Has the file of `rnabert` be one of these bytes and this pin, and weights be pulled to `tmp_path/weights`."""
    monkeypatch.setenv("CROSSLLM_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr(download, "WAIT", 0.0)

    def published(
        body: bytes = BODY, pin: str = PINS["sha256"], size: int = len(BODY), exact: bool = True
    ) -> WeightsFile:
        (tmp_path / "served").mkdir(exist_ok=True)
        (tmp_path / "served" / "w.pth").write_bytes(body)
        file = WeightsFile((tmp_path / "served" / "w.pth").as_uri(), pin, size, exact)
        monkeypatch.setitem(PUBLISHED, "rnabert", file)
        return file

    return published


def fetch(**asked: Any) -> Pulled:
    return pull(ask("rnabert", **{"url": None, "folder": None, "sha256": None} | asked), quiet=True)


def held() -> list[str]:
    """What the encoder's folder of weights holds."""
    folder = pulled_path("rnabert").parent
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("kind", PINS)
def test_what_is_published_is_kept_with_its_digest_and_is_then_at_hand(kind: str, publish: Publish) -> None:
    publish(pin=PINS[kind])
    assert local_weights("rnabert") is None
    with pytest.raises(InputError, match="needs its weights; fetch them with `embed pull rnabert`, name them with"):
        find_encoder("rna", "rnabert", None)
    done = fetch()
    assert (done.sha256, done.bytes, done.downloaded, done.checked) == (SHA256, len(BODY), True, kind)
    assert done.path.read_bytes() == BODY
    assert held() == ["w.pth", "w.pth.sha256"]
    checked = subprocess.run(["sha256sum", "--check", "w.pth.sha256"], cwd=done.path.parent, capture_output=True)
    assert checked.returncode == 0, "the digest is kept in the form that sha256sum reads"
    assert local_weights("rnabert") == done.path
    assert find_encoder("rna", "rnabert", None).name == "rnabert"
    again = fetch()
    assert again == done._replace(downloaded=False, checked="kept")


@pytest.mark.parametrize("at", [0, len(BODY) // 2, len(BODY) - 1])
@pytest.mark.parametrize("kind", PINS)
def test_a_flipped_bit_leaves_nothing(kind: str, at: int, publish: Publish) -> None:
    changed = bytearray(BODY)
    changed[at] ^= 1
    publish(bytes(changed), PINS[kind])
    with pytest.raises(CacheCorrupt, match=r"is expected; what arrived was deleted: another file, or damaged"):
        fetch()
    assert held() == []
    assert local_weights("rnabert") is None


@pytest.mark.parametrize("body", [BODY[:-1], BODY + b"x", b""], ids=["cut", "longer", "empty"])
def test_another_length_leaves_nothing(body: bytes, publish: Publish) -> None:
    publish(body)
    with pytest.raises(CacheCorrupt, match=f"{len(body)} bytes, {len(BODY)} are expected; nothing was kept"):
        fetch()
    assert held() == []


class Answers:
    """An opener: each call takes the next answer, an error to be raised or a body to be sent."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.asked = list(answers), 0

    def open(self, request: urllib.request.Request, timeout: float) -> Any:
        assert 0 < timeout <= 60
        self.asked += 1
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def body(data: bytes, length: int | None = len(BODY), then: BaseException | None = None) -> addinfourl:
    """A response that says `length`, sends `data`, and then ends or fails."""
    headers = Message()
    if length is not None:
        headers["Content-Length"] = str(length)

    class Sent(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            chunk = super().read(size)
            if not chunk and then is not None:
                raise then
            return chunk

    return addinfourl(Sent(data), headers, URL, 200)


def refused(code: int) -> urllib.error.HTTPError:
    return urllib.error.HTTPError(URL, code, "Because\x1b[31m", Message(), io.BytesIO(b""))


def unreachable(error: OSError) -> urllib.error.URLError:
    return urllib.error.URLError(error)


@pytest.fixture
def answer(publish: Publish, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answers]:
    """Sets the next answers of the network."""
    publish()

    def answers(*found: Any) -> Answers:
        opener = Answers(*found)
        monkeypatch.setattr(download, "OPENER", opener)
        return opener

    return answers


@pytest.mark.parametrize(
    "first",
    [
        (refused(503), refused(429)),
        (TimeoutError("timed out"), unreachable(ConnectionRefusedError(errno.ECONNREFUSED, "refused"))),
        (http.client.RemoteDisconnected("gone"), unreachable(socket.gaierror(-3, "try again"))),
    ],
    ids=["busy", "slow and refused", "disconnected and no name"],
)
def test_a_connection_is_tried_three_times(first: tuple[Any, ...], answer: Callable[..., Answers]) -> None:
    opener = answer(*first, body(BODY))
    assert fetch(url=URL).sha256 == SHA256
    assert opener.asked == 3


@pytest.mark.parametrize(
    ("answers", "tries", "say"),
    [
        ([unreachable(socket.gaierror(-2, "Name or service not known"))] * 3, 3, r"cannot be reached .* after 3 tries"),
        ([TimeoutError("timed out")] * 3, 3, r"cannot be reached \(timed out\) after 3 tries"),
        ([refused(503)] * 3, 3, "answers 503 .* after 3 tries"),
        ([refused(404)], 1, r"answers 404 Because\\x1b\[31m; download"),
        ([unreachable(ssl.SSLCertVerificationError("self-signed"))], 1, "cannot be reached .*self-signed"),
        ([body(BODY[:9000])], 1, f"broke off after 9000 of {len(BODY)} bytes; run the same command again, or download"),
        ([body(BODY[:9000], None, ConnectionResetError("reset"))], 1, r"broke off after 9000 bytes \(reset\)"),
        ([body(BODY[:9000], None, TimeoutError("timed out"))], 1, "broke off after 9000 bytes"),
        ([body(b"", len(BODY), http.client.IncompleteRead(b"", 9))], 1, "broke off after 0 bytes"),
    ],
)
def test_what_cannot_be_had_is_one_line_that_says_what_to_do(
    answers: list[Any], tries: int, say: str, answer: Callable[..., Answers]
) -> None:
    opener = answer(*answers)
    with pytest.raises(InputError, match=say) as refusal:
        fetch(url=URL)
    (line,) = refusal.value.lines
    path = pulled_path("rnabert")
    assert "weights.example" in line
    assert line.endswith(
        f"download {URL} on a machine with network, copy it to {path} and run the same command again, which checks "
        "it; or name it with `embed run --weights`"
    )
    assert line.isprintable()
    assert (opener.asked, held()) == (tries, [])


@pytest.mark.parametrize("exact", [True, False])
def test_a_body_without_end_is_stopped(exact: bool, publish: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulling, "_HEADS", 1 << 20)
    publish(pin=PINS["md5"], exact=exact)
    sent = 0

    class Endless(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            nonlocal sent
            sent += size
            return bytes(size)

    monkeypatch.setattr(download, "OPENER", Answers(addinfourl(Endless(), Message(), URL, 200)))  # type: ignore[arg-type]
    with pytest.raises(CacheCorrupt, match=r"more than the .* bytes expected"):
        fetch(url=URL)
    assert sent <= 2 * len(BODY) + (3 << 20)
    assert held() == []


def test_a_body_of_unknown_length_that_ends_early_is_found_out(answer: Callable[..., Answers]) -> None:
    answer(body(BODY[:-1], None))
    with pytest.raises(CacheCorrupt, match=f"{len(BODY) - 1} bytes, {len(BODY)} are expected"):
        fetch(url=URL)
    assert held() == []


def test_an_interrupt_leaves_nothing(answer: Callable[..., Answers]) -> None:
    answer(body(BODY[:100], len(BODY), KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        fetch(url=URL)
    assert held() == []


class Redirects(urllib.request.HTTPSHandler):
    """An https handler that sends every request but one for `last` on to the next place."""

    def __init__(self, *places: str) -> None:
        super().__init__()
        self.places, self.asked = list(places), list[str]()

    def https_open(self, req: urllib.request.Request) -> Any:
        self.asked.append(req.full_url)
        headers = Message()
        code = 200
        if self.places:
            headers["Location"], code = self.places.pop(0), 302
        else:
            headers["Content-Length"] = str(len(BODY))
        found = addinfourl(io.BytesIO(b"" if code == 302 else BODY), headers, req.full_url, code)
        found.msg = "said"  # type: ignore[attr-defined]
        return found


def test_redirects_are_followed_to_https_only(publish: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    publish()
    fine = Redirects("https://cdn.example/a?signature=secret", "/b")
    monkeypatch.setattr(download, "OPENER", urllib.request.build_opener(download._HttpsOnly, fine))
    assert fetch(url=URL).sha256 == SHA256
    assert fine.asked == [URL, "https://cdn.example/a?signature=secret", "https://cdn.example/b"]
    shutil.rmtree(pulled_path("rnabert").parent)
    for elsewhere, say in (
        ("http://weights.example/w.pth?signature=secret", r"leads to http://weights\.example/w\.pth\?…, which is not"),
        ("ftp://weights.example/w.pth", "leads to ftp://weights.example/w.pth, which is not https"),
        ("file:///etc/passwd?signature=secret", "answers 302 with a redirect that is not followed"),
        (URL, "answers 302 with a redirect that is not followed"),
    ):
        opener = urllib.request.build_opener(download._HttpsOnly, Redirects(*[elsewhere] * 20))
        monkeypatch.setattr(download, "OPENER", opener)
        with pytest.raises(InputError, match=say) as refusal:
            fetch(url=URL)
        assert "secret" not in str(refusal.value)
        assert held() == []


@pytest.mark.parametrize("url", ["http://weights.example/w", "ftp://weights.example/w", "data:,x", "w.pth", "//["])
def test_only_https_and_files_are_opened(url: str, answer: Callable[..., Answers]) -> None:
    opener = answer(body(BODY))
    with pytest.raises(InputError, match=r"write https://HOST/PATH|is not https"):
        fetch(url=url)
    assert opener.asked == 0


def test_no_secret_is_said(answer: Callable[..., Answers], capsys: pytest.CaptureFixture[str]) -> None:
    said = ""
    proxy = OSError("Tunnel connection failed: http://user:canary@proxy.example:8080 says no")
    for url, answers in (
        ("https://user:canary@weights.example/w", ()),
        ("https://weights.example/w?token=canary", (refused(403),)),
        ("https://weights.example/w?token=canary#canary", (refused(503),) * 3),
        ("https://weights.example/w?token=canary", (body(BODY[:5]),)),
        ("https://weights.example/w?token=canary", (body(BODY[:5], 5),)),
        ("https://weights.example/w", (unreachable(proxy),) * 3),
    ):
        answer(*answers)
        with pytest.raises((InputError, CacheCorrupt)) as refusal:
            fetch(url=url)
        said += str(refusal.value)
    captured = capsys.readouterr()
    assert "weights.example/w?…" in said + captured.err
    assert "canary" not in said + captured.out + captured.err


def test_a_file_put_there_by_hand_is_checked_and_taken_up(publish: Publish) -> None:
    publish()
    path = pulled_path("rnabert")
    path.parent.mkdir(parents=True)
    path.write_bytes(BODY)
    assert local_weights("rnabert") is None, "not before it was checked"
    with pytest.raises(InputError, match=r"check those at .*w\.pth with `embed pull rnabert`"):
        find_encoder("rna", "rnabert", None)
    done = fetch(url="https://nobody.invalid/")
    assert (done.downloaded, done.checked, local_weights("rnabert")) == (False, "sha256", path)


@pytest.mark.parametrize("kind", PINS)
def test_a_wrong_file_put_there_by_hand_is_refused_and_left(kind: str, publish: Publish) -> None:
    publish(pin=PINS[kind])
    path = pulled_path("rnabert")
    path.parent.mkdir(parents=True)
    path.write_bytes(BODY[:-1] + b"x")
    with pytest.raises(CacheCorrupt, match=r"w\.pth: .* is expected; delete it and run the same command again"):
        fetch()
    assert held() == ["w.pth"], "it may be all that its owner has"


def test_without_a_pin_the_first_use_is_trusted_and_held_to_ever_after(publish: Publish) -> None:
    publish(pin="")
    done = fetch()
    assert (done.sha256, done.checked) == (SHA256, "first use")
    done.path.write_bytes(BODY[:-1] + b"x")
    with pytest.raises(CacheCorrupt, match=f"{SHA256} is expected"):
        fetch()
    shutil.rmtree(done.path.parent)
    with pytest.raises(CacheCorrupt, match=f"SHA-256 is {SHA256}, {'0' * 64} is expected"):
        fetch(sha256="0" * 64)
    assert held() == []
    assert fetch(sha256=SHA256).checked == "--sha256"


def test_a_digest_that_contradicts_the_pin_is_refused_before_anything(answer: Callable[..., Answers]) -> None:
    opener = answer()
    with pytest.raises(InputError, match=f"rnabert is pinned to {SHA256}"):
        fetch(url=URL, sha256="0" * 64)
    assert opener.asked == 0
    for kind in ("md5", "git"):  # such a pin stays, whatever SHA-256 is given
        PUBLISHED["rnabert"] = PUBLISHED["rnabert"]._replace(pin=PINS[kind])
        answer(body(bytes(len(BODY))))
        with pytest.raises(CacheCorrupt, match=r"(MD5|git blob) is .* is expected"):
            fetch(url=URL, sha256=hashlib.sha256(bytes(len(BODY))).hexdigest())
        assert held() == []


@pytest.mark.parametrize("same", [True, False])
def test_another_process_that_was_faster(same: bool, publish: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    publish()
    path, give = pulled_path("rnabert"), fsio.move_new

    def overtaken(temporary: Path, final: Path) -> bool:
        path.write_bytes(BODY if same else BODY[1:])
        return give(temporary, final)

    monkeypatch.setattr(fsio, "move_new", overtaken)
    if same:
        assert fetch().sha256 == SHA256
        assert held() == ["w.pth", "w.pth.sha256"]
    else:
        with pytest.raises(Conflict, match="another process has put another file there"):
            fetch()
        assert held() == ["w.pth"]


def program_in_process(*arguments: str) -> int:
    """`embed …` here, so that what was patched holds; its exit code."""
    return runner._run(embed, arguments)


def test_no_room_is_exit_4_before_a_byte_comes(
    answer: Callable[..., Answers], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(body(BODY))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))  # type: ignore[attr-defined]
    assert program_in_process("pull", "rnabert", "--url", URL) == 4
    line = capsys.readouterr().err.splitlines()[-1]
    folder = pulled_path("rnabert").parent
    again = "nothing was kept; free some space and run the same command again"
    assert line == f"error: {folder}: no room for {len(BODY)} bytes, {again}"
    assert held() == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_is_exit_4_and_what_is_said_of_it_is_true(
    number: int, publish: Publish, capsys: pytest.CaptureFixture[str]
) -> None:
    """At every operation: "nothing was kept" wherever a byte of the download failed, and nowhere else."""
    publish()
    done: list[Op] = []
    with installed(FaultyOs()) as shim:
        shim.on_op = lambda _n, op: done.append(op)
        fetch()
    for n, op in enumerate(done, 1):
        if op.kind not in MAY_RAISE[number]:
            continue
        shutil.rmtree(pulled_path("rnabert").parent.parent, ignore_errors=True)
        with installed(FaultyOs(Fail(n, number))):
            assert program_in_process("pull", "rnabert", "--quiet") == 4, op
        *_notes, line = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert line.endswith("; free some space and run the same command again")
        ours = op.kind in ("create", "write", "fsync", "close") and ".tmp-w.pth-" in op.path
        assert ("nothing was kept" in line) == ours
        assert not [name for name in held() if name.startswith(".tmp-w.pth")]
        assert not ours or held() == []
        assert not ours or fetch().downloaded


def test_offline_is_exit_2_and_one_line(
    publish: Publish, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nobody(*_: object, **__: object) -> Iterator[object]:
        raise socket.gaierror(-2, "Name or service not known")

    publish()
    for variable in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    assert program_in_process("pull", "rnabert", "--url", URL) == 2
    captured = capsys.readouterr()
    (error,) = [line for line in captured.err.splitlines() if not line.startswith("note: ")]
    assert error.startswith("error: embed pull: weights.example cannot be reached ([Errno -2] Name or service not")
    assert captured.out == ""


def test_the_licence_and_the_size_are_said_before_the_download(
    answer: Callable[..., Answers], capsys: pytest.CaptureFixture[str]
) -> None:
    opener = answer(refused(404))
    assert program_in_process("pull", "rnabert", "--url", URL) == 2
    assert "note: rnabert: licence of the weights: none stated in the repository" in capsys.readouterr().err
    answer(body(BODY))
    assert program_in_process("pull", "rnabert", "--url", URL, "--json") == 0
    captured = capsys.readouterr()
    assert f"note: rnabert: {len(BODY):,} bytes from {URL} → " in captured.err
    told = json.loads(captured.out)
    path = pulled_path("rnabert")
    expected = {"name": "rnabert", "path": str(path), "sha256": SHA256, "bytes": len(BODY), "downloaded": True}
    assert told.items() >= expected.items()
    assert opener.asked == 1


def test_what_a_killed_pull_left_is_named_and_no_hindrance(
    publish: Publish, capsys: pytest.CaptureFixture[str]
) -> None:
    publish()
    folder = pulled_path("rnabert").parent
    folder.mkdir(parents=True)
    (folder / ".tmp-w.pth-0123").write_bytes(BODY[:10])
    assert fetch().sha256 == SHA256
    assert f"note: {folder}/.tmp-w.pth-0123: left by a download that was broken off" in capsys.readouterr().err


def test_a_pulled_file_that_was_changed_is_exit_3(
    publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    publish()
    path = fetch().path
    path.write_bytes(BODY[:-1] + b"x")
    (tmp_path / "a.fasta").write_text(">x\nACGU\n")
    monkeypatch.chdir(tmp_path)
    for command in ("pull rnabert", "run --modality rna -i a.fasta --encoder rnabert"):
        assert program_in_process(*command.split()) == 3
        (line,) = [found for found in capsys.readouterr().err.splitlines() if not found.startswith("note: ")]
        assert line.startswith(f"error: {path}: ")
        assert SHA256 in line
    kept_path(path).write_text("no digest\n")
    assert local_weights("rnabert") is None
    assert program_in_process("models") == 0, "a damaged digest spoils no list"
    assert program_in_process("pull", "rnabert") == 3


def test_embed_run_finds_what_was_pulled(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, real_data: Path
) -> None:
    weights = real_data / "weights" / "rnabert" / "RNABERT.pth"
    monkeypatch.setenv("CROSSLLM_WEIGHTS", str(tmp_path / "weights"))
    (tmp_path / "a.fasta").write_text(">x\nACGU\n")
    command = ("embed", "run", "--modality", "rna", "-i", "a.fasta", "--encoder", "rnabert", "--json")
    assert program(*command).returncode == 2
    done = program("embed", "pull", "rnabert", "--url", weights.as_uri())
    assert done.returncode == 0, done.stderr
    assert f"SHA-256 {PUBLISHED['rnabert'].pinned[1]} as its source states" in done.stdout
    found = program(*command)
    assert found.returncode == 0, found.stderr
    named = program(*command, "--weights", weights)
    assert json.loads(named.stdout)["already"] == json.loads(found.stdout)["embedded"] == 1
    recipes = [json.loads(done.stdout)["recipes"][0]["recipe"] for done in (named, found)]
    assert recipes[0] == recipes[1]
    (row,) = [
        row
        for row in json.loads(program("embed", "models", "--json").stdout)["encoders"]
        if row["encoder"] == "rnabert"
    ]
    assert row["weights"] == str(tmp_path / "weights" / "rnabert" / "RNABERT.pth")


def test_to_puts_the_file_into_that_folder(program: Program, tmp_path: Path, real_data: Path) -> None:
    weights = real_data / "weights" / "rnabert" / "RNABERT.pth"
    done = program("embed", "pull", "rnabert", "--url", weights.as_uri(), "--to", "here")
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "here").iterdir()) == ["RNABERT.pth", "RNABERT.pth.sha256"]
    assert "--weights here/RNABERT.pth" in done.stdout


def test_the_pins_are_those_of_the_real_files(real_data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CROSSLLM_WEIGHTS", str(tmp_path))
    for name, file in (("rnabert", "rnabert/RNABERT.pth"), ("gnn-gcn", "pretrain_gnns_chem/gcn_contextpred.pth")):
        path = real_data / "weights" / file
        found = PUBLISHED[name]
        assert (found.name, found.size, found.exact) == (path.name, path.stat().st_size, True)
        done = pull(ask(name, path.as_uri(), None, None), quiet=True)
        assert found.pin == f"sha256:{done.sha256}"
    # The id that its repository gives the second file's blob.
    git = PUBLISHED["gnn-gcn"]._replace(pin="git:11d1815f41cbca02a4ba457f08211f319bb1e1fd", exact=False)
    monkeypatch.setitem(PUBLISHED, "gnn-gcn", git)
    assert pull(ask("gnn-gcn", path.as_uri(), tmp_path / "git", None), quiet=True).checked == "git"


def test_every_published_file_can_be_asked_for() -> None:
    lengths = {"sha256": 64, "md5": 32, "git": 40}
    for name, file in PUBLISHED.items():
        kind, digest = file.pinned
        assert file.url.startswith("pkg:pypi/" if file.wheel else "https://")
        assert file.download >= file.size or not file.exact
        assert len(digest) == lengths[kind], name
        assert set(digest) <= set("0123456789abcdef"), name
        assert file.name.endswith((".pt", ".pth", ".safetensors", ".npz"))
        assert file.size > file.parameters, "a parameter takes two bytes at least"
    with_weights = {info.name for info in ENCODERS.values() if info.source}
    assert with_weights == PUBLISHED.keys()


def test_where_weights_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/some/cache")
    monkeypatch.setenv("CROSSLLM_WEIGHTS", "named")
    assert weights_folder() == Path("named")
    monkeypatch.setenv("CROSSLLM_WEIGHTS", "")
    assert weights_folder() == Path("/some/cache/crossllm/weights")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert weights_folder() == tmp_path / ".cache" / "crossllm" / "weights"


def test_a_digest_kept_by_others_is_held_to_as_well(tmp_path: Path) -> None:
    (tmp_path / "w.pth.sha256").write_text(f"{SHA256.upper()}  model.pth\n")
    assert kept_digest(tmp_path / "w.pth") == SHA256
    assert kept_digest(tmp_path / "other.pth") is None


@pytest.mark.parametrize(
    ("command", "say"),
    [
        ("pull rnabert --sha256 12", "'12' is no SHA-256; write its 64 hex digits."),
        ("pull rnabert --url http://x/y", "--url http://x/y: is not https"),
        ("pull", "Missing argument 'NAME'"),
    ],
)
def test_bad_usage_of_pull_is_one_line(command: str, say: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert program_in_process(*command.split()) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("note: ")]
    assert say in line


@pytest.mark.parametrize(
    "url",
    ["file:///a%00b", "https://a..b/x", f"https://{'a' * 80}.example/x", "https:///x", "https://h:abc/x",
     "https://h/a b", "file:///tmp", "https://h/\x1b[2J"],
)  # fmt: skip
def test_a_url_that_is_none_ends_in_one_line_at_once(url: str, program: Program, tmp_path: Path) -> None:
    done = program("embed", "pull", "rnabert", "--to", tmp_path / "w", "--url", url)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert line.isprintable()  # and no note that it is tried again stands before it


def test_a_fifo_is_no_file_of_weights(program: Program, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "f")
    (tmp_path / "w").mkdir()
    os.mkfifo(tmp_path / "w" / "RNABERT.pth")
    for flags in (("--url", f"file://{tmp_path}/f", "--to", tmp_path / "x"), ("--to", tmp_path / "w")):
        done = program("embed", "pull", "rnabert", *flags)
        assert done.returncode == 2
        *_licence, line = done.stderr.splitlines()
        assert "is no plain file" in line
        assert all(said.startswith("note: rnabert: licence") for said in _licence)


def test_a_folder_of_weights_that_cannot_be_is_not_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSLLM_WEIGHTS", "/" + "x" * 5000)
    assert local_weights("rnabert") is None
    monkeypatch.setenv("CROSSLLM_WEIGHTS", "~/w")
    assert "~" not in str(pulled_path("rnabert"))
