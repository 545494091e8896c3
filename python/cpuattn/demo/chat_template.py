"""The chat template of a model: how a conversation is written so that the model knows its turns.

It is a Jinja template in the model's file. It runs in Jinja's sandbox, with the names that Hugging
Face's transformers gives to such templates.
"""

import datetime as dt
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from cpuattn.demo.errors import DemoError
from cpuattn.demo.gguf_file import GGUFFile
from cpuattn.demo.gguf_tokenizer import control_tokens

Message = Mapping[str, str]  # "role" (system, user, assistant) and "content"
# In place of the name of a control token within a message: no text has a lone surrogate.
HIDDEN = "\ud800{}\udbff"


class ChatTemplate:
    """Turns conversations into tokens.

    Parameters
    ----------
    model : GGUFFile
        Has the template and the names of the control tokens.
    tokenizer : tokenizers.Tokenizer
        As `build_tokenizer` returns it.

    Raises
    ------
    DemoError
        If the file has no template, or one that is not valid.
    """

    def __init__(self, model: GGUFFile, tokenizer: Tokenizer) -> None:
        source = model.value("tokenizer.chat_template", None)
        if source is None:
            raise DemoError("the model has no chat template (tokenizer.chat_template): no chat")
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals |= {"raise_exception": _refuse, "strftime_now": _now}
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise DemoError(f"the model's chat template is not valid: {error}") from error
        self._tokenizer = tokenizer
        self._control = control_tokens(model)
        self._names = sorted(self._control, key=len, reverse=True)
        tokens = model.value("tokenizer.ggml.tokens")
        self._first = _added_first(model)
        self._constants = {
            f"{name}_token": tokens[index]
            for name in ("bos", "eos")
            if (index := model.value(f"tokenizer.ggml.{name}_token_id", None)) is not None
        }

    def ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the tokens of a conversation, up to where the next answer begins.

        Parameters
        ----------
        messages : sequence of mapping
            Names of control tokens in their contents are ordinary text.

        Returns
        -------
        list of int

        Raises
        ------
        DemoError
            If the template refuses the messages, as some do with system messages.
        """
        hidden = [{**message, "content": self._hide(message["content"])} for message in messages]
        try:
            text = self._template.render(
                messages=hidden, add_generation_prompt=True, **self._constants
            )
        except jinja2.TemplateError as error:
            raise DemoError(f"the model's chat template: {error}") from error
        ids: list[int] = []
        for part in self._split(text):
            if part in self._control:
                ids.append(self._control[part])
            elif part:
                ids += self._tokenizer.encode(self._show(part), add_special_tokens=False).ids
        # Most templates write the first token themselves.
        return ids if ids[:1] == self._first else self._first + ids

    def _split(self, text: str) -> list[str]:
        if not self._names:
            return [text]
        return re.split(f"({'|'.join(map(re.escape, self._names))})", text)

    def _hide(self, content: str) -> str:
        for index, name in enumerate(self._names):
            content = content.replace(name, HIDDEN.format(index))
        return content

    def _show(self, text: str) -> str:
        return re.sub(HIDDEN.format(r"(\d+)"), lambda found: self._names[int(found[1])], text)


def _added_first(model: GGUFFile) -> list[int]:
    """Return the token with which every text of the model begins, or none."""
    kind = model.value("tokenizer.ggml.model"), model.value("tokenizer.ggml.pre", "default")
    usual = kind[0] == "llama" or kind[1] in ("llama-bpe", "llama3")
    if not model.value("tokenizer.ggml.add_bos_token", usual):
        return []
    return [model.value("tokenizer.ggml.bos_token_id")]


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _now(form: str) -> str:
    return dt.datetime.now().astimezone().strftime(form)


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
