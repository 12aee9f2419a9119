"""How the conformance suite talks to a tool: what the tool's author tells of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any

from coi.records import record

URL = "{url}"
KEY = "{key}"
CODE = "{code}"


@record(frozen=True)
class ModelSetup:
    """What the suite must know of a tool beyond its plugin.

    In ``environment``, ``files`` and ``options`` two marks are replaced: ``{url}`` by the
    address of the stub model server (``http://10.0.0.1:12345``; the server is started where
    something names it) and ``{key}`` by an API key of 20 characters that must not be found
    in any saved state. In ``ask`` and ``answer`` ``{code}`` is replaced by a code word.

    The defaults suit a tool that has a prompt like ``mytool>``, answers each line with
    the code words that it knows, as the stub model does, and ends with ``/exit``.

    Attributes:
        environment: variables of the host. Those that the tool does not name in
            ``host_variables`` are handed in with ``--env``.
        files: files of the host's home, path to text: settings and credentials.
        options: the table ``[tool.<name>]`` of the user's configuration.
        ready: regular expression of the prompt on the screen; what is typed once it is
            there is taken. '' is the tool's name and ``>`` at the beginning of a line.
        dialogs: regular expressions of questions that must never be on the screen.
        ask: prompts that tell the tool a code word and have it say all that it was told.
        answer: regular expression of what it says then, ``{code}`` in it; its group 1 (all
            of it when it has none) has all code words.
        submit: what is typed after a prompt, once it is seen on the screen.
        exit: what ends the tool: a text is typed and submitted, control characters are sent.
        runs_commands: it runs the shell command that the model asks for, unasked.
        patience: seconds for the prompt to come, and for an answer.
        insists: seconds without an answer after which ``submit`` is typed again, as people
            do with a tool that loses an Enter while it draws; 0: never.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    ready: str = ""
    dialogs: tuple[str, ...] = ()
    ask: tuple[str, ...] = ("remember {code} please",)
    answer: str = r"codes[=:] ?([A-Z0-9,-]*{code}[A-Z0-9,-]*)"
    submit: str = "\r"
    exit: str = "/exit"
    runs_commands: bool = False
    patience: float = 120.0
    insists: float = 0.0

    @property
    def needs_model(self) -> bool:
        """Whether anything names the stub model server."""
        texts = (*self.environment.values(), *self.files.values(), json.dumps(self.options))
        return any(URL in text for text in texts)

    def filled(self, url: str, key: str) -> ModelSetup:
        """Itself with the address and the key in place of their marks."""

        def fill(text: str) -> str:
            return text.replace(URL, url).replace(KEY, key)

        return replace(
            self,
            environment={name: fill(value) for name, value in self.environment.items()},
            files={path: fill(text) for path, text in self.files.items()},
            options=json.loads(fill(json.dumps(self.options))),
        )

    def prompts(self, code: str) -> tuple[str, ...]:
        """``ask`` with a code word."""
        return tuple(text.replace(CODE, code) for text in self.ask)

    def codes(self, code: str, text: str) -> set[str]:
        """The code words in the answer that has ``code``, nothing when it is not there."""
        found = re.search(self.answer.replace(CODE, re.escape(code)), text)
        if found is None:
            return set()
        return set(re.findall(r"CODE-[A-Z0-9]+", found[1] if found.re.groups else found[0]))
