"""``coi file push`` and ``pull``: one tar stream over one ``incus exec``.

Both sides see all or nothing: what arrives is built beside its place and moved
there when it is whole. The container is not trusted with anything on the host:
see :mod:`coi.session.extract`, :mod:`coi.session.landing`.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable

from coi.errors import CoiError, NotFoundError, UsageError
from coi.incus.errors import classify
from coi.incus.instances import Instance, Instances
from coi.records import record
from coi.session.channel import STALL, Channel
from coi.session.extract import MAX_ENTRIES, Limits, Tally, unpack
from coi.session.landing import ARRIVING, Landing
from coi.session.model import number
from coi.session.pack import Packer, open_source
from coi.session.tarstream import DamagedStreamError, reading

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
_CONTENT = "content"  # a pushed directory's name when only its content is meant
_SETTLE = 900.0  # seconds in which what has been pushed is put in its place
_RESERVE = 0.05  # the share of the free space that a pull leaves

# Exit codes of the scripts below; tar's own are 1 and 2, the shell's 126 and 127.
_INSIDE = 80
_MISSING = 81
_IS_DIRECTORY = 82
_NOT_REGULAR = 83
_NO_TAR = 85
_NOT_A_DIRECTORY = 86
_NO_ACCESS = 87
_BROKEN_OFF = 88
_IN_THE_WAY = 89

# Arguments: the path, and `tree` where a directory may come.
_PULL = r"""
set -u
export LC_ALL=C
command -v tar >/dev/null || exit 85
if [ -d "$1" ]; then
  [ "$2" = tree ] || exit 82
  cd -P -- "$1" || exit 87
  set -- .
elif [ -f "$1" ]; then
  cd -P -- "${1%/*}/" || exit 87
  set -- -h "./${1##*/}"
elif [ -e "$1" ]; then exit 83
else exit 81
fi
tar -c -b 128 -S --format=gnu --hard-dereference --ignore-failed-read \
  --warning=no-file-changed -f - "$@" </dev/null
rc=$?
# What is not read yet when this ends is lost at times (Incus 6.0.4): the reader closes standard
# input when it has it all. Of a stream without its end it never thinks so: not for ever.
if [ "$rc" -le 1 ]; then
  trap 'exit "$rc"' TERM
  (sleep 10; kill -s TERM $$) </dev/null >/dev/null 2>&1 &
  read -r _
  kill $! 2>/dev/null
fi
exit "$rc"
"""

# Arguments: the path, `uid:gid`, and `content` where a directory's content is to
# be merged into the path. The stream holds one thing below tree/, then an empty
# file that says it is whole: tar takes a stream that was cut for a short one.
_PUSH = r"""
set -u
umask 022
export LC_ALL=C
dst=$1 owner=$2 how=$3
command -v tar >/dev/null || exit 85
base=$dst below=
while [ ! -d "$base" ]; do
  below=$base base=${base%/*}
  [ -n "$base" ] || base=/
done
[ -z "$below" ] || [ "$below" = "$dst" ] || { [ ! -e "$below" ] && [ ! -L "$below" ]; } || exit 86
[ "$how" = file ] || [ "$below" != "$dst" ] || { [ ! -e "$dst" ] && [ ! -L "$dst" ]; } || exit 86
cd -P -- "$base" || exit 87
stage=$(mktemp -d ./.coi-push-XXXXXXXX) || exit 87
trap 'rm -rf -- "$stage"' EXIT
trap 'exit 88' HUP INT TERM PIPE
chown "$owner" "$stage"
tar -x -p --same-owner --numeric-owner -f - -C "$stage" || exit 88
[ -f "$stage/whole" ] || exit 88
for entry in "$stage"/tree/* "$stage"/tree/.[!.]* "$stage"/tree/..?*; do
  [ ! -e "$entry" ] && [ ! -L "$entry" ] || break
done
done=0
if [ "$base" != "$dst" ]; then
  target=./${dst#"${base%/}"/}
  parents() {
    [ -d "$1" ] || { parents "${1%/*}" && mkdir -- "$1" && chown "$owner" "$1"; }
  }
  parents "${target%/*}" || exit 89
elif [ "$how" = content ]; then target=.
else target=./${entry##*/} done=80
fi
if [ -d "$entry" ] && [ ! -L "$entry" ] && [ -d "$target" ] && [ ! -L "$target" ]; then
  { tar -c -S -f - -C "$entry" . || : >"$stage/failed"; } |
    tar -x -p --same-owner --numeric-owner --no-overwrite-dir -f - -C "$target" || exit 89
  [ ! -e "$stage/failed" ] || exit 89
else
  mv -fT -- "$entry" "$target" || exit 89
fi
exit $done
"""


@record(frozen=True)
class Copied:
    """What was copied.

    Attributes:
        directory: a tree, rather than one file.
        target: where it is now: a path of the host, or inside.
    """

    directory: bool
    target: str
    tally: Tally


def split_remote(text: str, side: str) -> tuple[str, str]:
    """``NAME:PATH`` in its parts.

    Args:
        side: ``source`` or ``destination``, for the message.

    Raises:
        UsageError: it is malformed, or the path cannot be used.
    """
    name, colon, path = text.partition(":")
    if not colon or not _NAME.fullmatch(name) or not path:
        raise UsageError(
            f"the {side} must be container:path, not {text!r}",
            hint="for example my-container:/workspace/file",
        )
    if not path.startswith("/"):
        raise UsageError(
            f"the path inside must be absolute, not {path!r}",
            hint=f"for example {name}:/workspace/{path.removeprefix('./')}",
        )
    try:
        path.encode()
    except UnicodeEncodeError:
        raise UsageError(f"the path inside is not UTF-8: {path!r}") from None
    return name, path


def push(
    instances: Instances,
    source: str,
    name: str,
    path: str,
    *,
    recursive: bool,
    step: Callable[[Tally], None] = lambda _tally: None,
    stall: float = STALL,
) -> Copied:
    """Copy a file or directory of the host into a running instance.

    Args:
        source: a link is followed; ``dir/.`` means the directory's content.
        path: absolute, inside.
        recursive: directories too.
        step: called now and then with what was done so far.
        stall: seconds without progress after which it is given up.

    Raises:
        NotFoundError: there is no such file, or no such instance.
        UsageError: a directory, and not ``recursive``.
        CoiError: whatever else; nothing is left inside.
    """
    fd, directory = open_source(source)
    try:
        if directory and not recursive:
            raise UsageError(f"{source} is a directory", hint="-r copies directories")
        base = os.path.basename(source.rstrip("/"))  # noqa: PTH119 - Path drops a last "/."
        content = directory and base in ("", ".", "..")
        how = "content" if content else "directory" if directory else "file"
        place = _normal(path)
        if how == "file" and path.endswith("/"):
            place = _normal(f"{path}/{base}")
        row = _running(instances, name)
        owner = (number(row, "uid"), number(row, "gid"))
        command = ["sh", "-c", _PUSH, "coi", place, f"{owner[0]}:{owner[1]}", how]
        args = instances.exec_args(name, command, cwd="/")
        tally = Tally(step=step)
        with Channel(instances.client.runner, args, feed=True, stall=stall) as channel:
            packer = Packer(channel.write, owner, tally)
            inner = f"tree/{_CONTENT if content else base}"
            try:
                if directory:
                    packer.tree(fd, inner, source.rstrip("/") or "/")
                else:
                    packer.file(fd, inner, source)
                packer.end("whole")
            except BrokenPipeError:
                pass  # it has ended; its exit code says why
            except OSError as error:
                raise CoiError(
                    f"cannot read {error.filename or source}", details=str(error)
                ) from error
            exit_code, text = channel.finish(_SETTLE)
        if exit_code not in (0, _INSIDE):
            raise _explain(exit_code, text, name, path)
        _warn(tally, text)
        target = f"{place.rstrip('/')}/{base}" if exit_code == _INSIDE else place
        return Copied(directory, target, tally)
    finally:
        os.close(fd)


def pull(
    instances: Instances,
    name: str,
    path: str,
    destination: str,
    *,
    recursive: bool,
    max_size: int | None = None,
    max_entries: int = MAX_ENTRIES,
    step: Callable[[Tally], None] = lambda _tally: None,
    stall: float = STALL,
) -> Copied:
    """Copy a file or directory of a running instance to the host.

    Args:
        path: absolute, inside; a link is followed, ``dir/.`` means the content.
        max_size: bytes, holes of sparse files included; None for what is free
            at the destination, a twentieth left.
        max_entries: how many files, directories and links.
        recursive, step, stall: as :func:`push` has them.

    Raises:
        NotFoundError: there is no such file, or no such instance.
        UsageError: a directory, and not ``recursive``.
        CoiError: whatever else; nothing is left at the destination.
    """
    base = path.rstrip("/").rpartition("/")[2]
    content = base in ("", ".", "..")
    if destination == "":
        raise UsageError("the destination is empty")
    row = _running(instances, name)
    landing = Landing(destination, "" if content else base)
    limit = int(landing.free * (1 - _RESERVE)) if max_size is None else max_size
    command = ["sh", "-c", _PULL, "coi", _normal(path), "tree" if recursive else "file"]
    args = instances.exec_args(row.name, command, cwd="/")
    tally = Tally(step=step)
    umask = os.umask(0o077)
    os.umask(umask)
    problem: CoiError | None = None
    directory = False
    with landing, Channel(instances.client.runner, args, feed=False, stall=stall) as channel:
        try:
            with reading(channel) as reader:
                directory = unpack(
                    reader,
                    landing.root,
                    ARRIVING,
                    limits=Limits(limit, max_entries),
                    tally=tally,
                    umask=umask,
                )
        except DamagedStreamError as error:
            problem = error
        except OSError as error:
            raise _disk_error(error, landing.shown) from error
        exit_code, text = channel.finish(5.0)
        if exit_code not in (0, 1) or (problem and text.startswith("Error:")):
            raise _explain(exit_code, text, name, path) from problem
        if problem:
            raise CoiError(f"cannot read {name}:{path}: {problem.brief}", details=problem.details)
        if directory and not recursive:
            raise CoiError("the container sent a directory where a file was asked for")
        _warn(tally, text)
        try:
            landing.commit(directory=directory)
        except OSError as error:
            raise _disk_error(error, landing.shown) from error
    return Copied(directory, landing.shown, tally)


def _running(instances: Instances, name: str) -> Instance:
    row = instances.get(name)
    if not row.running:
        raise CoiError(
            f"{name} is not running",
            details=f"its status is {row.status}",
            hint=f"coi container start {name}",
        )
    return row


def _normal(path: str) -> str:
    """An absolute path without doubled, idle and trailing parts."""
    return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))


def _warn(tally: Tally, text: str) -> None:
    """What tar has to say although it went through."""
    tally.warnings += [line for line in text.splitlines() if line.strip()][:20]


def _explain(exit_code: int, text: str, name: str, path: str) -> CoiError:
    """The error of a script that ended otherwise than well."""
    where = f"{name}:{path}"
    if exit_code == _MISSING:
        return NotFoundError(f"{where} does not exist")
    if exit_code == _IS_DIRECTORY:
        return UsageError(f"{where} is a directory", hint="-r copies directories")
    if exit_code == _NOT_REGULAR:
        return CoiError(f"{where} is neither a file nor a directory")
    if exit_code in (_NO_TAR, 127):
        return CoiError(
            f"{name} lacks the programs to copy files", details=text or "there is no tar inside"
        )
    if exit_code == _NOT_A_DIRECTORY:
        return CoiError(f"cannot write {where}: something that is no directory is in the way")
    brief = {
        _NO_ACCESS: f"cannot use {where}",
        _IN_THE_WAY: f"cannot put it at {where}",
    }.get(exit_code, f"the transfer of {where} broke off")
    hint = ""
    if text.startswith("Error:"):
        return classify(text, action=f"copy {where}")
    if any(words in text for words in ("No space left", "quota exceeded", "Wrote only")):
        hint = "free space in the container; nothing of the copy is left there"
    return CoiError(brief, details=text or f"exit code {exit_code}", hint=hint)


def _disk_error(error: OSError, place: str) -> CoiError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return CoiError(
        f"cannot write {place}" + (": the disk is full" if full else ""),
        details=str(error),
        hint="free space; nothing of the copy is left" if full else "",
    )
