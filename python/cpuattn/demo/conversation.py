"""A conversation with a decoder: what was said, and the cache that keeps it."""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

import cpuattn
from cpuattn.demo.chat_template import ChatTemplate
from cpuattn.demo.decoder import Chooser, Decoder
from cpuattn.demo.errors import DemoError
from cpuattn.demo.gguf_file import GGUFFile
from cpuattn.demo.gguf_tokenizer import build_tokenizer, end_tokens
from cpuattn.demo.llama import build_decoder


@dataclass
class Answer:
    """What was written, how long it took, and why it ended."""

    prompt_tokens: int = 0  # that the model read for this answer
    kept_tokens: int = 0  # that the cache had of earlier turns
    tokens: list[int] = field(default_factory=list)
    prompt_seconds: float = 0.0  # until the first token
    further_seconds: float = 0.0  # for all others
    ending: str = ""
    interrupted: bool = False


class Conversation:
    """Turns of a user and a model; what the model has read stays in its caches.

    Parameters
    ----------
    model : GGUFFile
        Its weights, tokenizer and chat template.
    choose : callable
        Gives the next token for the logits.
    system : str, optional
        Instructions to the model; without them its chat template gives its own, or none.
    dtype : str, default "float32"
        Of the caches.
    """

    def __init__(
        self,
        model: GGUFFile,
        choose: Chooser,
        system: str | None = None,
        dtype: str = "float32",
    ) -> None:
        self.decoder: Decoder = build_decoder(model)
        self.tokenizer: Tokenizer = build_tokenizer(model)
        self._template = ChatTemplate(model, self.tokenizer)
        self._ends = end_tokens(model)
        self._choose = choose
        self._system = system
        self._dtype = dtype
        self.reset()

    def reset(self) -> None:
        """Begin a new conversation."""
        self.messages: list[dict[str, str]] = []
        if self._system is not None:
            self.messages.append({"role": "system", "content": self._system})
        self.caches: list[cpuattn.KVCache] = []
        self._held: list[int] = []  # the tokens that the caches hold

    def ask(self, text: str, most_tokens: int, show: Callable[[str], object]) -> Answer:
        """Take a turn of the user and write the model's.

        Parameters
        ----------
        text : str
            What the user says.
        most_tokens : int
            Where the answer ends at the latest.
        show : callable
            Called with each piece of the answer, whole characters only.

        Returns
        -------
        Answer
            Ctrl-C ends it early; what was written so far is in the conversation.

        Raises
        ------
        DemoError
            If the conversation does not fit in the model's context. It is as it was then.
        """
        turn = {"role": "user", "content": text}
        ids = self._template.ids([*self.messages, turn])
        context = self.decoder.config.context
        if len(ids) >= context:
            raise DemoError(
                f"the text has {len(ids)} tokens with its frame and what was said before, but this "
                f"model's context holds {context}, written ones included"
            )
        # The last token written is never appended, so this is enough without growth.
        room = min(len(ids) + most_tokens, context)
        self._keep(ids, room)
        answer = Answer(len(ids) - len(self._held), len(self._held))
        self._write(answer, ids, room, show)
        if not answer.ending:
            full = room == context
            answer.ending = (
                f"the context of {context} tokens is full" if full else "--tokens reached"
            )
        written = [token for token in answer.tokens if token not in self._ends]
        self.messages += [turn, {"role": "assistant", "content": self.tokenizer.decode(written)}]
        return answer

    def _keep(self, ids: list[int], room: int) -> None:
        """Keep the part of the caches that is the beginning of `ids`; one token is read anew."""
        pairs = zip(self._held, ids[:-1], strict=False)
        same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        self._held = self._held[:same]
        if not self.caches:
            self.caches = self.decoder.new_caches(room, self._dtype)
        for cache in self.caches:
            cache.truncate(same)

    def _write(
        self, answer: Answer, ids: list[int], room: int, show: Callable[[str], object]
    ) -> None:
        text = DecodeStream(skip_special_tokens=True)  # holds back half a character
        steps = self.decoder.write(ids[len(self._held) :], self.caches, self._choose)
        start = time.perf_counter()
        try:
            for token, _ in itertools.islice(steps, room - len(ids)):
                answer.tokens.append(token)
                seconds = time.perf_counter() - start
                if len(answer.tokens) == 1:
                    answer.prompt_seconds = seconds
                answer.further_seconds = seconds - answer.prompt_seconds
                if token in self._ends:
                    answer.ending = "ended by the model"
                    break
                if piece := text.step(self.tokenizer, token):
                    show(piece)
        except KeyboardInterrupt:
            answer.ending, answer.interrupted = "interrupted", True
        finally:
            # Ctrl-C may come between two layers: keep what all of them have.
            length = min(int(cache.lengths[0]) for cache in self.caches)
            for cache in self.caches:
                cache.truncate(length)
            self._held = (ids + answer.tokens)[:length]
