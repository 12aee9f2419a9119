"""Calling a plugin: what goes wrong in it is named, and is nobody else's trouble."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

from coi.api import Tool
from coi.errors import CoiError, Interrupted
from coi.tools.check import path_fault

MAX_ITEMS = 1000  # that a method may list: a generator need not end

_T = TypeVar("_T")


def call(tool: Tool, method: str, *arguments: object) -> Any:
    """Call a plugin's method.

    Raises:
        CoiError: whatever the method raised; it names the plugin.
    """
    with blamed(tool, method):
        return getattr(tool, method)(*arguments)


@contextlib.contextmanager
def blamed(tool: Tool, method: str) -> Iterator[None]:
    """What the block raises is the plugin's failure, and what it prints is no result.

    Also for looking at what a method returned: an attribute may be a property.

    Raises:
        CoiError: anything that was raised but a CoiError and an interruption.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except (CoiError, KeyboardInterrupt, Interrupted):
        raise
    except BaseException as error:  # a SystemExit of a plugin is not ours
        raise fault(tool, method, describe(error)) from error


def listed(tool: Tool, method: str, argument: object, kind: type[_T]) -> tuple[_T, ...]:
    """What a plugin's method lists, each item checked.

    Raises:
        CoiError: the plugin failed, or asked for a path that it may not have.
    """
    with blamed(tool, method):
        found = getattr(tool, method)(argument)
        if isinstance(found, (str, bytes)):
            raise TypeError(f"a {type(found).__name__} instead of a list")
        items = tuple(islice(found, MAX_ITEMS + 1))
        if len(items) > MAX_ITEMS:
            raise fault(tool, method, f"it lists more than {MAX_ITEMS}")
        for item in items:
            if type(item) is not kind:  # one of a subclass may answer differently each time
                raise fault(tool, method, f"it returned a {type(item).__name__}")
            _check_paths(tool, method, item)
    return items


def _check_paths(tool: Tool, method: str, item: object) -> None:
    target: object = getattr(item, "target", None)
    if reason := path_fault(target):
        raise fault(tool, method, f"target {str(target)[:80]!r}: {reason}")
    source: object = getattr(item, "source", "")
    absolute = isinstance(source, str) and source.startswith("/") and "\0" not in source
    if not absolute and source != "" and (reason := path_fault(source)):
        raise fault(tool, method, f"source {str(source)[:80]!r}: {reason}")


def strings(tool: Tool, method: str, found: object) -> tuple[str, ...]:
    """An argv as a plugin returned it, checked."""
    with blamed(tool, method):
        if isinstance(found, str) or not isinstance(found, Sequence) or not found:
            raise fault(tool, method, "it returned no list of arguments")
        parts = tuple(islice(found, MAX_ITEMS + 1))
        if len(parts) > MAX_ITEMS:
            raise fault(tool, method, f"it returned more than {MAX_ITEMS} arguments")
        if not all(isinstance(part, str) and "\0" not in part for part in parts) or not parts[0]:
            raise fault(tool, method, "an argument is not a string, or has a NUL byte")
    return parts


def fault(tool: Tool, method: str, details: str) -> CoiError:
    """The error for a plugin's failure."""
    return CoiError(
        f"the plugin of tool {tool.name!r} failed in {method}()",
        details=details[:500],
        hint="report it to the plugin's author, or leave it out with COI_DISABLED_PLUGINS",
    )


def describe(error: BaseException) -> str:
    """``Kind: message`` on one line, at most 300 characters; survives a bad ``__str__``."""
    try:
        message = " ".join(str(error)[:1000].split())
    except (KeyboardInterrupt, Interrupted):
        raise
    except BaseException:
        message = "(its message cannot be shown)"
    return f"{type(error).__name__}: {message}"[:300].removesuffix(": ")
