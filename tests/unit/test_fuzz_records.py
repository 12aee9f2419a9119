"""Files of coi's own, below ~/.coi, with any content: read whole, or left out.

What a file holds is used by the next command of whoever has it, so one that is damaged must
neither end that command nor be believed in part.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fuzzing import HARD, texts
from hypothesis import example, given
from hypothesis import strategies as st

from coi.config import trust
from coi.errors import CoiError, NotFoundError
from coi.network import answers, attachment, duty
from coi.network.upkeep import fence_of
from coi.session import baseline, settlement, store
from coi.session.baseline import Kept, Record
from coi.workspace.aside import Item
from coi.workspace.fingerprint import Entry
from coi.workspace.protect import Plan

ID = "3f0c1a5e-8d2b-4c6f-9a71-5b2e8c0d4f13"
ACL = "coi-0a1b2c3d"


@contextmanager
def home() -> Iterator[Path]:
    with TemporaryDirectory(prefix="coi-fuzz-") as name:
        yield Path(name)


def hard(test: Callable[..., None]) -> Callable[..., None]:
    """With every text of HARD as an example."""
    for name, data in HARD.items():
        test = example(data).via(name)(test)
    return test


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(0o600)
    return path


# -- saved sessions ------------------------------------------------------------------------

SAVED = {
    "id": ID, "tool": "dummy", "workspace": "/w", "container": "coi-1a2b3c4d-1",
    "saved_at": "2026-01-01T00:00:00.000+00:00", "state": "state-00ff.tar", "size": 3, "files": 1,
    "persistent": False, "image": "coi", "version": "1", "slot": 1, "format": 1,
    "skipped": [[".tool/x", "not a regular file"]],
}  # fmt: skip


@hard
@given(texts(SAVED))
def test_metadata_of_any_kind(data: bytes) -> None:
    with home() as top:
        kept = store.Store(top)
        directory = kept.directory("dummy", ID)
        put(directory / store.METADATA, data)
        found = list(kept.all())
        latest = kept.latest(Path("/w"))
        assert kept.of_container("coi-1a2b3c4d-1", "dummy") in (None, *found)
        assert latest in (None, *found)
        try:
            assert kept.find(ID) in found
        except NotFoundError:
            assert not found
        for saved in found:
            assert (saved.id, saved.tool, saved.path) == (ID, "dummy", directory), "its own place"
            assert saved.state_path is None  # there is no such file
            assert saved == store.SavedSession.from_json(saved.to_json(), directory)
            for name, kind in KINDS.items():
                assert type(getattr(saved, name)) is kind, name
            assert all(type(word) is str for row in saved.skipped for word in row)
            assert all(len(row) == 2 for row in saved.skipped)
            kept.delete(saved)
        assert list(kept.all()) == []


KINDS = {
    **dict.fromkeys(
        ("id", "tool", "workspace", "container", "saved_at", "state", "image", "version"), str
    ),
    **dict.fromkeys(("size", "files", "slot", "format"), int),
    "persistent": bool,
}


# -- approvals -----------------------------------------------------------------------------

APPROVAL = {"path": "/w/.coi.toml", "sha256": "0" * 64, "approved_at": "2026-01-01T00:00:00Z"}


@hard
@given(texts(APPROVAL))
@example(json.dumps({"path": "/a\0b/.coi.toml"}).encode()).via("a path that no file has")
@example(json.dumps({"path": "/\ud800/.coi.toml"}).encode()).via("a path that no file has")
def test_approvals_of_any_kind(data: bytes) -> None:
    """No file but the one that coi writes makes a project trusted."""
    with home() as top:
        project = top / "project"
        put(project / ".coi.toml", b"[defaults]\nimage = 'coi'\n")
        file = trust.read_project(project)
        assert isinstance(file, trust.ProjectFile)
        trust.approve(top, file)
        (entry,) = (top / "trust").iterdir()
        right = json.loads(entry.read_bytes())
        assert trust.is_trusted(top, file)
        put(entry, data)
        assert not trust.is_trusted(top, file)
        for approval in trust.approvals(top):
            assert approval.state != "trusted"
            assert isinstance(approval.digest + approval.approved_at, str)
        put(entry, json.dumps(right).encode())
        assert [a.state for a in trust.approvals(top)] == ["trusted"]


# -- the network ---------------------------------------------------------------------------

ANSWERS = {
    "format": answers.FORMAT,
    "answers": {
        "github.com": {"addresses": ["140.82.121.4"], "resolved_at": "2026-01-01T00:00:00+00:00"},
        "pypi.org": {
            "addresses": ["151.101.0.223", "151.101.64.223"],
            "resolved_at": "2026-02-01T00:00:00+00:00",
        },
    },
}


def answered(at: str) -> bytes:
    rows = {"a.org": {"addresses": ["140.82.121.4"], "resolved_at": at}}
    return json.dumps({"format": answers.FORMAT, "answers": rows}).encode()


@hard
@given(texts(ANSWERS))
@example(answered("2026-1-2T3:4:5Z")).via("a time that one reader takes and the other does not")
@example(answered("2026-01-01T00:00:00")).via("a time of nowhere")
@example(answered("٢٠٢٦-01-01T00:00:00Z")).via("digits of another script")
@example(answered("9999-12-31T23:59:59-23:59")).via("a time after all times")
@example(answered("٢٠٢٦-01-01T00:00:00+00:00")).via("digits of another script, in UTC")
def test_answers_of_any_kind(data: bytes) -> None:
    with home() as top:
        put(answers.path_of(top, "p"), data)
        found = answers.load(top, "p")
        for answer in found.values():
            assert answer.addresses
            assert all(type(address) is IPv4Address for address in answer.addresses)
        answers.stale(found, found, 5)
        answers.save(top, "p", found)
        assert answers.load(top, "p") == found


ATTACHED = {
    "format": attachment.FORMAT, "backend": "bridge", "network": ACL, "acl": ACL,
    "policy": "0" * 32, "mode": "restricted", "rules": "r", "names": "n", "profile": "p",
    "device": {"type": "nic", "network": ACL, "name": "eth0"}, "gateway": "10.0.0.1",
    "nameservers": ["10.0.0.2"], "masked": ["eth1"],
}  # fmt: skip


@hard
@given(texts(ATTACHED))
def test_attachments_of_any_kind(data: bytes) -> None:
    with home() as top:
        path = put(top / f"attached-{ACL}.json", data)
        found = attachment.load(path)
        if found is not None:
            row = json.loads(data)
            for name in ("network", "acl", "policy", "mode", "rules", "names", "profile"):
                assert getattr(found, name) == row[name], "as it stands there, or not at all"
            assert found.device == row["device"]
            assert list(found.masked) == row["masked"]
            attachment.save(path, found)
            assert attachment.load(path) == found


@given(st.binary(max_size=120) | st.sampled_from([ACL.encode(), f"{ACL}\n".encode()]))
def test_choices_of_any_kind(data: bytes) -> None:
    with home() as top:
        found = attachment.chosen(put(top / "chosen-x", data))
        assert found in ("", data.decode("ascii", "replace").strip())
        assert not found or found.startswith("coi-")


DUTY = {
    "format": duty.FORMAT, "prefix": "coi-", "place": "p", "project": "default",
    "profile": "default", "backend": "auto", "acl": ACL, "minutes": 30, "hash": "0" * 32,
    "inside": True, "log": "/l",
    "policy": {
        "mode": "allowlist", "domains": ["github.com"], "networks": ["192.0.2.0/24"],
        "private": False, "local_ingress": False, "metadata": False, "logged": False,
    },
}  # fmt: skip


@hard
@given(texts(DUTY))
@example(json.dumps({**DUTY, "acl": []}).encode()).via("what is in no set")
@example(json.dumps({**DUTY, "policy": 5}).encode()).via("no policy")
@example(json.dumps({**DUTY, "policy": {"mode": "open", "x": 1}}).encode()).via("another one's")
def test_duties_of_any_kind(data: bytes) -> None:
    with home() as top:
        path = put(top / "refresh-x.json", data)
        found = duty.load(path)
        assert duty.attended(top) == ({found.acl: False} if found else {})
        duty.take_over(top, {"coi-ffffffff"})
        if found is not None:
            fence = fence_of(top, found)
            assert fence.policy.hash
            assert list(fence.policy.domains) == found.domains
        duty.forget(top, {ACL})
        assert path.exists() is (found is None or found.acl != ACL)


# -- protected paths -----------------------------------------------------------------------


def _record(top: Path) -> dict[str, Any]:
    """What coi itself writes, of every kind of entry."""
    made = Record(
        top / "protect/x",
        Path("/w"),
        Plan((".git",), (".git/config", ".husky"), (".git",)),
        {
            ".git/config": Entry("file", 0o644, "d", data=b"x\0"),
            ".husky": Entry("link", target="/etc"),
            ".git": Entry("directory", 0o755),
            "p": Entry("special file", 0o600, identity="1:2"),
        },
        (".git/config", ".husky"),
        "restore",
        {ID: Kept("coi-1a2b3c4d-1", "local", "default", {"guard1": {"type": "disk"}}, {"a": "b"})},
    )
    made.directory.mkdir(mode=0o700, parents=True)
    made.write()
    data: dict[str, Any] = json.loads((made.directory / "record.json").read_bytes())
    return data


with home() as _top:
    RECORD = _record(_top)


@hard
@given(texts(RECORD))
def test_baselines_of_any_kind(data: bytes) -> None:
    """A record that is damaged is said to be, and stays: it is never taken for none."""
    with home() as top:
        (top / "protect").mkdir(mode=0o700)
        with baseline.opened(top, Path("/w")) as fresh:
            fresh.write()
            path = fresh.directory / "record.json"
        put(path, data)
        found = baseline.records(top)
        try:
            with baseline.opened(top, Path("/w")) as record:
                assert found == [record]
                record.write()
        except CoiError:
            assert not found
            assert path.read_bytes() == data
            return
        (again,) = baseline.records(top)
        assert again == record
        for entry in again.entries.values():
            assert type(entry.mode) is int
            assert entry == Entry.from_json(entry.to_json())
        for kept in again.sessions.values():
            assert type(kept.instance + kept.remote + kept.project) is str
            assert type(kept.settled) is bool
        assert all(type(p) is str for p in (*again.plan.deep, *again.plan.shallow, *again.paths))


QUARANTINE: dict[str, Any] = {
    "source": "/w", "session": ID, "at": "2026-01-01T00:00:00Z",
    "items": [
        {"path": ".git/config", "what": "changed", "kind": "file", "stored": "1", "left_as": "",
         "restored": True, "problem": ""},
        {"path": ".husky", "what": "new", "kind": "directory", "stored": "", "problem": "x",
         "left_as": ".husky.coi-x", "restored": False},
    ],
}  # fmt: skip


@hard
@given(texts(QUARANTINE))
def test_quarantines_of_any_kind(data: bytes) -> None:
    name = "20260101-000000-00ff"
    with home() as top:
        put(top / "quarantine" / name / "record.json", data)
        found = settlement.all_of(top)
        try:
            kept = settlement.find(top, name)
        except NotFoundError:
            assert not found
            return
        assert found == [kept]
        assert type(kept.session + kept.at) is str
        for item in kept.items:
            assert type(item) is Item
            assert type(item.restored) is bool
            settlement.content(kept, item)
        settlement.write(kept)
        assert settlement.all_of(top) == [kept]


HEAD = {"source": "/w", "session": ID, "at": "2026-01-01T00:00:00Z"}


@hard
@given(st.lists(texts(HEAD, *QUARANTINE["items"]), max_size=3).map(b"\n".join))
def test_journals_of_any_kind(data: bytes) -> None:
    """Of one that a killed coi left, what is whole counts; with a record it does not."""
    with home() as top:
        directory = top / "quarantine/20260101-000000-00ff"
        put(directory / "1", b"aside")
        item = json.dumps(QUARANTINE["items"][0]).encode()
        for rest in (data, item + b"\n" + item[: len(data)]):
            put(directory / "journal", json.dumps(HEAD).encode() + b"\n" + rest)
            for kept in settlement.all_of(top):
                assert all(type(found) is Item for found in kept.items)
        (kept,) = settlement.all_of(top)
        assert [found.path for found in kept.items] == [".git/config"] * len(kept.items) != []
        put(directory / "journal", data)
        for kept in settlement.all_of(top):
            assert type(kept.session) is str


def test_the_samples_are_read() -> None:
    """Else all of the above would be of files that are left out."""
    with home() as top:
        kept = store.Store(top)
        put(kept.directory("dummy", ID) / store.METADATA, json.dumps(SAVED).encode())
        assert kept.find(ID).slot == 1
        put(answers.path_of(top, "p"), json.dumps(ANSWERS).encode())
        assert set(answers.load(top, "p")) == {"github.com", "pypi.org"}
        assert attachment.load(put(top / "a", json.dumps(ATTACHED).encode()))
        found = duty.load(put(top / "d", json.dumps(DUTY).encode()))
        assert found
        assert fence_of(top, found).policy.domains == ("github.com",)
        put(top / "quarantine/20260101-000000-00ff/record.json", json.dumps(QUARANTINE).encode())
        assert len(settlement.all_of(top)[0].items) == 2
